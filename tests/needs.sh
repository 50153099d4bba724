#!/usr/bin/env bash
# needs.sh: what `make test` needs of the machine. Installs what is missing where it may, else
# names the command that does. Nothing is skipped for lack of it.
set -euo pipefail

missing=()
while read -r program package; do
    command -v "$program" >/dev/null || missing+=("$package")
done <<'END'
systemctl systemd
systemd-analyze systemd
unshare util-linux
nsenter util-linux
setpriv util-linux
ip iproute2
gdb gdb
strace strace
mount mount
chattr e2fsprogs
cc gcc
python3 python3
pgrep procps
curl curl
END
# A compiler without the C library's headers and static archive builds no plugin.
if command -v cc >/dev/null && ! echo 'int main(void){return 0;}' | cc -xc -static -o /dev/null - 2>/dev/null; then
    missing+=(libc6-dev)
fi

if ((${#missing[@]})); then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    install="apt-get install -y --no-install-recommends ${missing[*]}"
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update && DEBIAN_FRONTEND=noninteractive $install
    else
        echo "needs: this machine lacks ${missing[*]}; install with: sudo $install" >&2
        exit 1
    fi
fi
if ! cargo nextest --version >/dev/null 2>&1; then
    cargo install cargo-nextest --locked
fi
if [[ $(id -u) != 0 ]]; then
    echo "needs: the suites under systemd and the scans of memory need root: sudo -E env PATH=\"\$PATH\" make test" >&2
    exit 1
fi
