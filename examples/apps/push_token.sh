#!/usr/bin/env bash
# The calls of an app, with curl:
#
#   push_token.sh register TYPE VALUE APP_NAME [ID]   at every start of the app; TYPE: apn or gcm
#   push_token.sh list
#   push_token.sh remove VALUE
#   push_token.sh log_out
#
# REGISTRY_URL, USER_ID and AUTH_TOKEN come from the environment. Ends with 4 when the session has
# ended: sign in again, then register again. ID names the device, the same at each start: a name that
# the device keeps. The next push token of this device then takes the place of this one.
set -euo pipefail

# A JSON string: quotes and backslashes escaped. Push tokens and app names have no newlines.
quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# `--retry` waits as Retry-After says, on 408, 429, 500, 502, 503 and 504. The secret is passed as a
# file, because the list of processes shows the arguments of a command.
call() {
  local status
  status=$(curl -sS --retry 4 --max-time 15 -o "$answer" -w '%{http_code}' \
    -H @<(printf 'X-User-Id: %s\nX-Auth-Token: %s\n' "$USER_ID" "$AUTH_TOKEN") \
    -H 'Content-Type: application/json' "${@:2}" "$REGISTRY_URL/api/v1/$1")
  case $status in
    200) cat "$answer"; echo ;;
    401) echo 'signed out: sign in again, then register again' >&2; exit 4 ;;
    *) cat "$answer" >&2; exit 1 ;;
  esac
}

case ${1-} in
  register)
    fields="\"type\":$(quoted "$2"),\"value\":$(quoted "$3"),\"appName\":$(quoted "$4")"
    if [[ -n ${5-} ]]; then fields+=",\"id\":$(quoted "$5")"; fi
    call push.token -d "{$fields}" ;;
  list) call push.token ;;
  # Not in the body: some proxies strip the body of a DELETE.
  remove) call push.token -X DELETE -G --data-urlencode "token=$2" ;;
  log_out) call logout -X POST ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
