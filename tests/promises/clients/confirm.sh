#!/bin/sh
# Confirms one collection in the encrypted form and prints the decrypted answer.
#
#   sh confirm.sh URL CERT_FILE USER_NAME KEY PASSWORD CONTRACT
#
# Needs curl and openssl. Secrets stand in the process list while this runs: it shows the protocol,
# a till should do the same in its own process.
set -eu
url=$1 cert_file=$2 user_name=$3 key=$4 password=$5 contract=$6

# AES-128-ECB with PKCS#5 padding; the key is the first 16 bytes of SHA1(SHA1(password)).
aes_key=$(printf %s "$password" | openssl dgst -sha1 -binary | openssl dgst -sha1 -r | cut -c 1-32)
crypt() { openssl enc -aes-128-ecb -K "$aes_key" -base64 -A "$@"; }

# All times on the wire are Philippine time, GMT+8 (which POSIX writes with the other sign).
now=$(TZ=PHT-8 date '+%Y-%m-%d %H:%M:%S')
json=$(cat <<END
{"userName":"$user_name","action":"collectionCollect","authentication":"$key",
"contractNumber":"$contract","amount":"3900.00","phone":"09270348095",
"receiptNumber":"CURL-$contract","collectedTime":"$now","payChannel":"1"}
END
)

# Trusts the certificate that `tilld cert show --pem` printed, and no other. On a time-out, an
# error or -1009: post the same receipt again until 1000 or -1015.
answer=$(printf %s "$json" | crypt -e |
    curl --silent --show-error --cacert "$cert_file" --max-time 15 \
        --header 'Content-Type: text/plain' --data-binary @- "$url")

# -1001 comes as plain JSON, everything else under the password of the request.
case $answer in
{*) printf '%s\n' "$answer" ;;
*) printf %s "$answer" | crypt -d && echo ;;
esac
