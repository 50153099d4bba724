#!/usr/bin/env bash
# demo.sh: a first try, what `make demo` does. One instance in a temporary directory, one job whose
# plugin receives a secret; it is left running. Needs nothing but the Rust toolchain and a C compiler,
# and no rights.
#
#   DEMO_PORT=8081   where to begin to look for a free port
#   DEMO_STOP=1      stop it at the end and remove the directory
#   DEMO_BINS=DIR    programs that are built already
set -euo pipefail
umask 077
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

step() { printf '\n== %s\n' "$*"; }
show() { printf '   $ %s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

bins=${DEMO_BINS:-}
if [[ -z $bins ]]; then
    step "Building the five programs (profile demo: little optimised, quick to build)"
    (cd "$source" && cargo build --profile demo --workspace --exclude tests)
    bins=${CARGO_TARGET_DIR:-$source/target}/demo
fi
ductile=$bins/ductile
[[ -x $ductile ]] || die "no $ductile"

root=$(mktemp -d /tmp/ductile-demo.XXXXXX)
launcher=''
cleanup() {
    local status=$?
    if [[ $status != 0 || ${DEMO_STOP:-} == 1 ]]; then
        if [[ $status != 0 && -s $root/log ]]; then
            echo "demo: failed; the log's last lines:" >&2
            tail -n 20 "$root/log" "$root/stderr" >&2 || true
        fi
        if [[ -n $launcher ]]; then kill "$launcher" 2>/dev/null && wait "$launcher" || status=$?; fi
        rm -rf "$root"
    fi
    exit "$status"
}
trap cleanup EXIT

# One request on a connection of its own; prints the body. What to type for the same: curl.
http() { # METHOD PATH [BODY]
    local body=${3-}
    (
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        printf '%s %s HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s' \
            "$1" "$2" "$token" "${#body}" "$body" >&3
        sed '1,/^\r*$/d' <&3
    ) 2>/dev/null
}

port=${DEMO_PORT:-8081}
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
random() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }
token=$(random 32)
secret=demo-$(random 16)

step "An instance in $root, laid out as the deployment guide has it"
mkdir -p "$root"/{config,data,secrets,plugins/canary}
cp "$source/tests/plugins/canary/manifest.yaml" "$root/plugins/canary/"
cc -O2 -o "$root/plugins/canary/canary" "$source/tests/plugins/canary/canary.c"
cat >"$root/config/config.yaml" <<END
state:
  path: ./data/ductile.db
plugin_roots:
  - $root/plugins
secrets:
  age_key_file: $root/secrets/age.key
include:
  - api.yaml
  - plugins.yaml
END
cat >"$root/config/api.yaml" <<END
api:
  enabled: true
  listen: 127.0.0.1:$port
  auth:
    tokens:
      - token: $token
        scopes: ["*"]
END
cat >"$root/config/plugins.yaml" <<'END'
plugins:
  canary:
    enabled: true
    requires_vault: true
END
show "ls $root/config"; ls "$root/config" | sed 's/^/   /'

step "A key, and a vault that only this key opens"
show "ductile secrets keygen --out $root/secrets/age.key"
"$ductile" secrets keygen --out "$root/secrets/age.key"
show "ductile vault init --vault $root/config/vault.age --key $root/secrets/age.key"
"$ductile" vault init --vault "$root/config/vault.age" --key "$root/secrets/age.key" >"$root/secrets/admin.token"

step "Seals: the configuration as it stands, and the bytes of the plugin that may get secrets"
show "ductile config lock --config $root/config"
"$ductile" config lock --config "$root/config"
show "ductile plugin lock --all --config $root/config"
preview=$("$ductile" plugin lock --all --config "$root/config")
printf '%s\n' "$preview" | sed 's/^/   /'
code=$(sed -n '$s/.*plugin lock --all //p' <<<"$preview")
"$ductile" plugin lock --all "$code" --config "$root/config"

step "Start: the launcher, and below it vault agent, executor with its spawner, HTTP front"
show "ductile system start --config $root/config"
# A session of its own, so that it outlives this script and its terminal.
setsid "$ductile" system start --config "$root/config" >"$root/log" 2>"$root/stderr" </dev/null &
launcher=$!
for ((tries = 0; ; tries++)); do
    health=$(http GET /healthz || true)
    [[ $health != *'"status":"ok"'* ]] || break
    kill -0 "$launcher" 2>/dev/null || { cat "$root/stderr" >&2; die "the launcher ended"; }
    ((tries < 500)) || die "not healthy within ten seconds"
    sleep 0.02
done
sed 's/^/   /' "$root/stderr"
show "curl http://127.0.0.1:$port/healthz"
echo "   $health"

step "A secret, granted to the plugin canary (its value goes in by stdin, never by argument)"
show "ductile vault register-principal --name canary"
"$ductile" vault register-principal --name canary --config "$root/config" --token-file "$root/secrets/admin.token"
show "ductile vault set --name canary_key --principal canary"
printf '%s' "$secret" | "$ductile" vault set --name canary_key --principal canary --config "$root/config" \
    --token-file "$root/secrets/admin.token"

step "A job: the plugin gets the secret on its stdin, and tells how long it is"
show "curl -X POST -H 'Authorization: Bearer …' http://127.0.0.1:$port/plugin/canary/poll"
accepted=$(http POST /plugin/canary/poll)
echo "   $accepted"
job=$(sed -n 's/.*"job_id":"\([^"]*\)".*/\1/p' <<<"$accepted")
[[ -n $job ]] || die "the job was not accepted"
for ((tries = 0; ; tries++)); do
    answer=$(http GET "/job/$job")
    [[ $answer == *'"status":"queued"'* || $answer == *'"status":"running"'* ]] || break
    ((tries < 500)) || die "the job did not end within ten seconds"
    sleep 0.02
done
show "curl -H 'Authorization: Bearer …' http://127.0.0.1:$port/job/$job"
echo "   $answer"
[[ $answer == *'"status":"succeeded"'* && $answer == *"a secret of ${#secret} bytes"* ]] || die "the job did not succeed"

step "Where the value is: nowhere on the disk but inside vault.age"
show "grep -r VALUE $root"
if grep -rqF -- "$secret" "$root"; then die "the value lies in $(grep -rlF -- "$secret" "$root")"; fi
echo "   (nothing)"

echo
echo "The job ended: succeeded. Look at:"
echo "  $root/log              one JSON line a record"
echo "  $root/data/ductile.db  the ledger (SQLite)"
echo "  $root/config/api.yaml  the API's token"
if [[ ${DEMO_STOP:-} == 1 ]]; then
    echo "Stopping it, as DEMO_STOP=1 asks."
else
    echo "It runs on. To stop it and remove everything:"
    echo "  kill $launcher && rm -rf $root"
fi
