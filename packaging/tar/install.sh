#!/bin/sh
# Installs Tailway from the folder that this script lies in: no network, no package manager, nothing is started.
# Every check comes before the first change, and what is there already is only replaced if a previous run put it there.
set -eu
umask 022

usage() {
    cat <<'TEXT'
usage: ./install.sh [--prefix DIR]            install, or replace what a previous run installed (default: /usr/local)
       ./install.sh --remove [--prefix DIR]   remove what it installed; configuration and state are kept
TEXT
}

fail() {
    echo "install.sh: $1" >&2
    [ $# -lt 2 ] || echo "  next: $2" >&2
    exit 1
}

prefix=/usr/local
remove=no
while [ $# -gt 0 ]; do
    case "$1" in
    --prefix)
        [ $# -ge 2 ] || fail "--prefix needs a folder" "./install.sh --prefix /usr/local"
        prefix=$2
        shift
        ;;
    --remove) remove=yes ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 64
        ;;
    esac
    shift
done
case "$prefix" in
*[!A-Za-z0-9/._-]*) fail "the prefix $prefix has characters other than letters, digits and / . _ -" "choose another one" ;;
/*) ;;
*) fail "the prefix $prefix does not begin with /" "give an absolute folder" ;;
esac
prefix=${prefix%/}
installed=$prefix/share/tailway/installed.sha256

[ "$(id -u)" = 0 ] || fail "it is not run as root, which has to write to $prefix" "sudo ./install.sh"

sum_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

# The sum that a previous run noted for a path, if any.
noted() {
    [ ! -e "$installed" ] || awk -v path="$1" '$2 == path { print $1 }' "$installed"
}

reload() {
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || echo "install.sh: systemctl daemon-reload failed; units are read at the next boot" >&2
    fi
}

if [ "$remove" = yes ]; then
    [ -e "$installed" ] || fail "$installed is missing: nothing was installed below $prefix by this script" \
        "give the --prefix of the installation"
    for daemon in agent broker coordinator; do
        if [ -d /run/systemd/system ] && systemctl --quiet is-active tailway-$daemon.service; then
            fail "tailway-$daemon is running" "systemctl disable --now tailway-$daemon"
        fi
    done
    while read -r sum path; do
        [ -e "$path" ] || continue
        if [ "$(sum_of "$path")" = "$sum" ]; then
            rm -f "$path"
        else
            echo "install.sh: kept $path, which was changed" >&2
        fi
    done <"$installed"
    rm -f "$installed"
    reload
    echo "removed; kept: /etc/tailway, /var/lib/tailway and the users"
    exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
host="$(uname -s) on $(uname -m)"
[ "$host" = "Linux on @ARCH@" ] ||
    fail "these programs are for Linux on @ARCH@, this host is $host" "take the archive for $(uname -m)"
[ -e SHA256SUMS ] || fail "SHA256SUMS is missing in $here" "unpack the archive again"
sha256sum --check --strict --quiet SHA256SUMS ||
    fail "files in $here are not what was packed (named above)" "unpack the archive again; if it persists, fetch it again"
bin/tailway --version >/dev/null ||
    fail "bin/tailway does not run on this host (said above); it needs nothing of it but the kernel, and a folder that is not mounted noexec" \
        "unpack the archive elsewhere: findmnt --target $here"

# A packed file goes to its name below the prefix. systemd looks for units, users and folders there too, if it is /usr or /usr/local.
staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
conflicts=
while read -r sum name; do
    [ "$name" != install.sh ] || continue
    mkdir -p "$staged/$(dirname "$name")"
    case "$name" in
    # Units name their program by its whole path.
    lib/systemd/system/*) sed "s#/usr/bin/#$prefix/bin/#; s#/usr/share/#$prefix/share/#" "$name" >"$staged/$name" ;;
    *) cp "$name" "$staged/$name" ;;
    esac
    target=$prefix/$name
    if [ -e "$target" ] || [ -L "$target" ]; then
        there=$(sum_of "$target")
        [ "$there" = "$(sum_of "$staged/$name")" ] || [ "$there" = "$(noted "$target")" ] || conflicts="$conflicts $target"
    fi
done <SHA256SUMS
if [ -n "$conflicts" ]; then
    for path in $conflicts; do
        echo "install.sh: $path is there already, and not from this script" >&2
    done
    fail "nothing was changed" "remove the package or files that they belong to, or install elsewhere: ./install.sh --prefix DIR"
fi

mkdir -p "$prefix/share/tailway"
while read -r sum name; do
    [ "$name" != install.sh ] || continue
    target=$prefix/$name
    mkdir -p "$(dirname "$target")"
    mode=0644
    [ ! -x "$name" ] || mode=0755
    # Beside it and then renamed, so that a running program and a power cut find the old or the new.
    install -m $mode "$staged/$name" "$target.new"
    mv -f "$target.new" "$target"
    echo "$(sum_of "$target")  $target"
done <SHA256SUMS >"$staged/installed.sha256"
# What a previous release had and this one has not.
if [ -e "$installed" ]; then
    while read -r sum path; do
        if ! grep -q "  $path\$" "$staged/installed.sha256" && [ -e "$path" ] && [ "$(sum_of "$path")" = "$sum" ]; then
            rm -f "$path"
        fi
    done <"$installed"
fi
install -m 0644 "$staged/installed.sha256" "$installed.new"
mv -f "$installed.new" "$installed"

for daemon in agent broker coordinator; do
    for tool in systemd-sysusers "systemd-tmpfiles --create"; do
        conf=$prefix/lib/sysusers.d/tailway-$daemon.conf
        [ "$tool" = systemd-sysusers ] || conf=$prefix/lib/tmpfiles.d/tailway-$daemon.conf
        # shellcheck disable=SC2086 # the second has an option
        if command -v ${tool%% *} >/dev/null; then
            $tool "$conf"
        else
            echo "install.sh: this host has no ${tool%% *}: make by hand what $conf says" >&2
        fi
    done
done
reload
echo "installed below $prefix; nothing is enabled or started. Next, on the first host: tailway coordinator init --name HOST"
