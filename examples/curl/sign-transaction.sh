#!/bin/sh
# Has a wire transaction (base64, on standard input) signed by a key, and prints the signed one (base64).
#   sign-transaction.sh KEY
#
# KEYSLOT_URL, KEYSLOT_CA (PEM file), and either KEYSLOT_CERTIFICATE and KEYSLOT_KEY (PEM files) or
# KEYSLOT_TOKEN_FILE. The token goes to curl through a pipe: everybody on a machine can read arguments.
set -eu
key=$1
reply=$(mktemp)
trap 'rm -f "$reply"' EXIT
trap 'exit 130' HUP INT TERM

if [ -n "${KEYSLOT_TOKEN_FILE:-}" ]; then
  header=$(printf 'header = "Authorization: Bearer %s"' "$(cat "$KEYSLOT_TOKEN_FILE")")
  set -- --config -
else
  header=
  set -- --cert "$KEYSLOT_CERTIFICATE" --key "$KEYSLOT_KEY"
fi

# --retry repeats what is 429 or 5xx, after Retry-After: a signature may be asked for twice.
body=$(printf '{"transaction":"%s"}' "$(cat)")
printf '%s\n' "$header" | curl "$@" --cacert "$KEYSLOT_CA" \
  --silent --show-error --fail-with-body --max-time 60 --retry 3 \
  --header 'Content-Type: application/json' --data "$body" --output "$reply" \
  "$KEYSLOT_URL/v1/keys/$key/sign-transaction" || { cat "$reply" >&2; exit 1; }

# Base64 has no character that JSON would escape.
sed -n 's/.*"signedTransaction":"\([^"]*\)".*/\1/p' "$reply"
