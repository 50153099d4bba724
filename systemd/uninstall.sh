#!/usr/bin/env bash
# uninstall.sh: takes away what install.sh put in place (PREFIX, USER_UNITS and DESTDIR as there).
# Configuration, vault, key, database, plugins and users stay.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${PREFIX:-/usr/local} dest=${DESTDIR:-}
manager=(systemctl) variant=system units=$dest/etc/systemd/system
if [[ ${USER_UNITS:-} == 1 ]]; then
    manager=(systemctl --user) variant=user units=$dest${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
fi

names=()
for unit in "$here/$variant"/*; do names+=("${unit##*/}"); done
running=
if [[ -z $dest ]] && "${manager[@]}" show-environment >/dev/null 2>&1; then running=1; fi
if [[ -n $running ]]; then "${manager[@]}" disable --now "${names[@]}" >/dev/null 2>&1 || true; fi
for name in "${names[@]}"; do rm -f "$units/$name"; done
if [[ $variant == system ]]; then
    rm -f "$dest/etc/sysusers.d/ductile.conf" "$dest/etc/tmpfiles.d/ductile.conf"
fi
for program in ductile ductile-api ductile-executor ductile-spawner ductile-vault-agent; do
    rm -f "$dest$prefix/bin/$program"
done
if [[ -n $running ]]; then "${manager[@]}" daemon-reload; fi
echo "Removed programs and units. What holds data stays: /etc/ductile, /var/lib/ductile, /var/lib/ductile-vault."
