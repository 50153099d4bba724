#!/usr/bin/env bash
# install.sh: what `make install` does.
#
#   PREFIX=/usr/local       where bin/ lies
#   BINS=target/release     the five programs, built
#   USER_UNITS=1            the user variant of the units, for the calling user
#   DESTDIR=DIR             stage into DIR for a package: no user, id or token is made then
#
# Files are put in place by rename, so that a running program keeps the one it was started from.
# A configuration that exists is never touched.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${PREFIX:-/usr/local} bins=${BINS:-$here/../target/release} dest=${DESTDIR:-}
programs=(ductile ductile-api ductile-executor ductile-spawner ductile-vault-agent)

die() { echo "install: $*" >&2; exit 1; }

# place MODE SOURCE TARGET
place() {
    install -D -m "$1" "$2" "$dest$3.new"
    mv -f "$dest$3.new" "$dest$3"
}

# Units name the programs where they are installed.
units() { # VARIANT TARGET_DIR
    local unit rendered
    rendered=$(mktemp)
    for unit in "$here/$1"/*; do
        sed "s|@BINDIR@|$prefix/bin|" "$unit" >"$rendered"
        place 0644 "$rendered" "$2/${unit##*/}"
    done
    rm -f "$rendered"
}

for program in "${programs[@]}"; do
    [[ -x $bins/$program ]] || die "no $program in $bins: build it first (make install does)"
done
for program in "${programs[@]}"; do
    place 0755 "$bins/$program" "$prefix/bin/$program"
done

if [[ ${USER_UNITS:-} == 1 ]]; then
    units user "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"
    echo "Installed to $prefix/bin, units for this user. Next:"
    echo "  systemctl --user daemon-reload && systemctl --user enable --now ductile.target"
    exit 0
fi

[[ -n $dest || $(id -u) == 0 ]] || die "the system units need root; for your own user: make install PREFIX=\$HOME/.local USER_UNITS=1"
units system /etc/systemd/system
place 0644 "$here/sysusers.conf" /etc/sysusers.d/ductile.conf
place 0644 "$here/tmpfiles.conf" /etc/tmpfiles.d/ductile.conf
if [[ -n $dest ]]; then
    mkdir -p "$dest/usr/share/ductile/config"
    install -m 0644 "$here"/config/* "$dest/usr/share/ductile/config/"
    exit 0
fi

systemd-sysusers /etc/sysusers.d/ductile.conf
systemd-tmpfiles --create /etc/tmpfiles.d/ductile.conf

# Bundled plugins: root's tree, readable by all and writable by nobody else.
if [[ -d $here/../plugins ]]; then
    cp -rT --no-preserve=ownership "$here/../plugins" /opt/ductile/plugins
    chown -R root:root /opt/ductile/plugins
    chmod -R u=rwX,go=rX /opt/ductile/plugins
fi

token=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
for file in "$here"/config/*; do
    target=/etc/ductile/${file##*/}
    [[ ! -e $target ]] || continue
    # Never readable by others, not even while it is written.
    (umask 077; sed -e "s|@PLUGIN_UID@|$(id -u ductile-plugin)|" -e "s|@PLUGIN_GID@|$(id -g ductile-plugin)|" \
        -e "s|@API_TOKEN@|$token|" "$file" >"$target.new")
    chown ductile:ductile "$target.new"
    chmod 0640 "$target.new"
    mv "$target.new" "$target"
done
[[ ! -d /run/systemd/system ]] || systemctl daemon-reload

cat <<END
Installed to $prefix/bin, configuration in /etc/ductile (API token in api.yaml). Next:
  ductile secrets keygen --out /var/lib/ductile-vault/age.key
  ductile vault init --vault /var/lib/ductile-vault/vault.age --key /var/lib/ductile-vault/age.key
  ductile config lock --config /etc/ductile
  ductile plugin lock --all --config /etc/ductile
  systemctl enable --now ductile.target
END
