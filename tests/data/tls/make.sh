#!/bin/sh
# Makes the certificates of this directory anew: an authority, whose key is thrown away, and a
# server on 127.0.0.1 and localhost. They open nothing but the test servers.
set -eu

cd "$(dirname -- "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

key "$scratch/authority.key"
openssl req -x509 -new -key "$scratch/authority.key" -days 36500 -sha256 \
    -subj '/CN=qdrant-bridge test authority' \
    -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign' \
    -out authority.pem
key server.key
openssl req -new -key server.key -subj '/CN=localhost' -out "$scratch/server.csr"
cat > "$scratch/extensions" <<EOF
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=IP:127.0.0.1,DNS:localhost
EOF
openssl x509 -req -in "$scratch/server.csr" -CA authority.pem -CAkey "$scratch/authority.key" \
    -set_serial 1 -days 36500 -sha256 -extfile "$scratch/extensions" -out server.pem
