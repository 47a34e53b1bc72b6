#!/bin/sh
# Makes the certificates the tests of this directory use; they last for a century.
set -eu
cd "$(dirname "$0")"

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
}
request() {
    openssl req -new -key "$1.key" -subj "/CN=$2" -out "$1.csr"
}
sign() {
    name=$1
    shift
    openssl x509 -req -in "$name.csr" -days 36500 -CA root.crt -CAkey root.key \
        -set_serial "0x$(openssl rand -hex 8)" -out "$name.crt" "$@"
}

# The authority, and another one that signed nothing.
for name in root stranger; do
    key $name
    openssl req -new -x509 -key $name.key -days 36500 -subj "/CN=$name" -out $name.crt
done

# A server's certificate as it should be.
key server
request server db.example
printf 'subjectAltName=DNS:db.example,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >server.ext
sign server -extfile server.ext

# Version 1, as PostgreSQL's manual makes them with OpenSSL before 3.2.
key version1
request version1 db.example
sign version1

# Self-signed and an authority at once, as PostgreSQL's manual makes a quick one.
key selfsigned
openssl req -new -x509 -key selfsigned.key -days 36500 -subj "/CN=db.example" \
    -addext subjectAltName=DNS:db.example -out selfsigned.crt

# Self-signed and of the past.
key expired
request expired db.example
printf 'subjectAltName=DNS:db.example\nbasicConstraints=CA:TRUE\n' >expired.ext
openssl x509 -req -in expired.csr -signkey expired.key -days -1 -extfile expired.ext \
    -out expired.crt

openssl pkcs8 -topk8 -in server.key -passout pass:secret -out encrypted.key

rm -f ./*.csr ./*.ext root.key stranger.key
