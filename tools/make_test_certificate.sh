#!/bin/sh
# Makes the certificates and the key in freerun/testing/localhost_tls.py, and prints them.
#
#     tools/make_test_certificate.sh
#
# The authority's key is thrown away: nobody can sign anything else with it. Valid from 2020 for a hundred years, so that
# no clock is too early or too late.
set -eu
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT

cat >ca.cnf <<CNF
[ca]
default_ca = tests
[tests]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = policy
default_startdate = 20200101000000Z
default_enddate = 21200101000000Z
[policy]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
CNF
: >index.txt

new_key() {
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"
}

new_key ca.key
openssl req -new -key ca.key -subj "/CN=freerun's tests" -out ca.csr
openssl ca -batch -notext -config ca.cnf -extensions authority -selfsign -keyfile ca.key -in ca.csr -out ca.pem

new_key leaf.key
openssl req -new -key leaf.key -subj "/CN=localhost" -out leaf.csr
openssl ca -batch -notext -config ca.cnf -extensions leaf -keyfile ca.key -cert ca.pem -in leaf.csr -out leaf.pem

cat ca.pem leaf.pem leaf.key
