#!/bin/sh
# A throw-away certificate authority and a certificate per node, for mutual TLS between nodes.
# Usage: make-certificates.sh FOLDER NODE...
# What exists stays, so it may run at every start; a name that is new gets its certificate.
set -eu
folder=$1
shift
cd "$folder"
umask 077
if [ ! -s ca.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=mosquorum" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.new
    mv ca.new ca.pem
fi
for node in "$@"; do
    [ -s "$node.pem" ] && continue
    printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "$node" >"$node.ext"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$node" -keyout "$node.key" -out "$node.csr"
    openssl x509 -req -in "$node.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days 3650 \
        -extfile "$node.ext" -out "$node.new"
    mv "$node.new" "$node.pem"
    rm -f "$node.csr" "$node.ext"
done
# The nodes run as 1883; the authority's key stays root's.
chmod 755 .
chmod 644 ./*.pem
for node in "$@"; do
    chown 1883:1883 "$node.key" && chmod 400 "$node.key"
done
