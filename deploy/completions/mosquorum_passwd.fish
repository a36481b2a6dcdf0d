complete -c mosquorum_passwd -s H -d 'the hashing algorithm: argon2id (default), sha512-pbkdf2 (Mosquitto 2.0 and earlier) or sha512 (Mosquitto 1.6 and earlier).' -r -f -a "argon2id\t''
sha512-pbkdf2\t''
sha512\t''"
complete -c mosquorum_passwd -s I -d 'the number of iterations of sha512-pbkdf2 (default 1000).' -r
complete -c mosquorum_passwd -s b -d 'take the password from the command line.'
complete -c mosquorum_passwd -s c -d 'create a new password file. This will overwrite existing files. A dash as file prints the line.'
complete -c mosquorum_passwd -s D -d 'delete the username rather than adding or updating its password.'
complete -c mosquorum_passwd -s U -d 'update a plain text password file to use hashed passwords.'
