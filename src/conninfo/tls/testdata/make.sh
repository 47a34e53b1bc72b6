#!/bin/sh
# Makes the certificates the tests of this directory use, valid from 2020 on for a century.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/index"
cat >"$work/ca.conf" <<CONF
[ca]
default_ca = ca_default
[ca_default]
database = $work/index
new_certs_dir = $work
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
CONF

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
}
# certificate <name> <common name> <last day> <extensions> <signing options…>
certificate() {
    name=$1 subject=$2 end=$3 extensions=$4
    shift 4
    openssl req -new -key "$name.key" -subj "/CN=$subject" -out "$work/$name.csr"
    if [ -n "$extensions" ]; then
        printf "$extensions" >"$work/$name.ext"
        set -- "$@" -extfile "$work/$name.ext"
    fi
    openssl ca -batch -notext -config "$work/ca.conf" -in "$work/$name.csr" -out "$name.crt" \
        -startdate 20200101000000Z -enddate "${end}000000Z" "$@"
}

for name in root stranger server version1 selfsigned expired; do
    key $name
done
authority='basicConstraints=critical,CA:TRUE\n'
by_root='-cert root.crt -keyfile root.key'

# The authority, and another one that signed nothing.
certificate root root 21200101 "$authority" -selfsign -keyfile root.key
certificate stranger stranger 21200101 "$authority" -selfsign -keyfile stranger.key
# A server's certificate as it should be.
certificate server db.example 21200101 \
    'subjectAltName=DNS:db.example,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' $by_root
# Version 1, as PostgreSQL's manual makes them with OpenSSL before 3.2.
certificate version1 db.example 21200101 '' $by_root
# Self-signed and an authority at once, as PostgreSQL's manual makes a quick one.
certificate selfsigned db.example 21200101 "${authority}subjectAltName=DNS:db.example\n" \
    -selfsign -keyfile selfsigned.key
certificate expired db.example 20210101 "${authority}subjectAltName=DNS:db.example\n" \
    -selfsign -keyfile expired.key

openssl pkcs8 -topk8 -in server.key -passout pass:secret -out encrypted.key
rm root.key stranger.key
