#compdef mosquorum_passwd

autoload -U is-at-least

_mosquorum_passwd() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'-H+[the hashing algorithm\: argon2id (default), sha512-pbkdf2 (Mosquitto 2.0 and earlier) or sha512 (Mosquitto 1.6 and earlier).]:hash:(argon2id sha512-pbkdf2 sha512)' \
'-I+[the number of iterations of sha512-pbkdf2 (default 1000).]:iterations:_default' \
'-b[take the password from the command line.]' \
'-c[create a new password file. This will overwrite existing files. A dash as file prints the line.]' \
'-D[delete the username rather than adding or updating its password.]' \
'-U[update a plain text password file to use hashed passwords.]' \
':passwordfile -- the file that is changed or made.:_files' \
'::username -- whose password is set, or who is deleted.:_default' \
'::password -- with -b only; other users of the machine may see it.:_default' \
&& ret=0
}

(( $+functions[_mosquorum_passwd_commands] )) ||
_mosquorum_passwd_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum_passwd commands' commands "$@"
}

if [ "$funcstack[1]" = "_mosquorum_passwd" ]; then
    _mosquorum_passwd "$@"
else
    compdef _mosquorum_passwd mosquorum_passwd
fi
