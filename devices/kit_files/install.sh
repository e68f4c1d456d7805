#!/bin/sh
# Installs edgekit and the bundle @NAME@ without a network, for @DEVICE@.
# Usage: sh install.sh [FOLDER]   (/opt/edgekit for root, else ~/.local/share/edgekit)
set -eu
umask 022

name=@NAME@
needs='@PYTHON@ @MACHINE@'

fail() {
    code=$1
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$code"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
place=${1:-}
if [ -z "$place" ]; then
    if [ "$(id -u)" = 0 ]; then place=/opt/edgekit; else place=${HOME:?}/.local/share/edgekit; fi
fi
mkdir -p "$place" || fail 9 "cannot make $place"
place=$(CDPATH='' cd -- "$place" && pwd)

(cd "$here" && sha256sum --quiet -c SHA256SUMS >/dev/null 2>&1) ||
    fail 7 "the kit in $here is damaged: a file does not have its checksum. Next: copy the kit again"

# The wheels fit one version of Python and one kind of processor.
python=
found='none was found'
for candidate in python@PYTHON@ python3; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    is=$("$candidate" -c 'import platform, sys
print("%d.%d %s" % (*sys.version_info[:2], platform.machine()))') || continue
    if [ "$is" = "$needs" ]; then
        python=$candidate
        break
    fi
    found="$candidate is $is"
done
[ -n "$python" ] || fail 3 "this kit needs Python $needs: $found. Next: install it, or" \
    "pack again with edgekit pack --python VERSION"

# pip comes with the kit: Debian's Python has none of its own, and no module ensurepip.
[ -x "$place/venv/bin/python" ] ||
    "$python" -m venv --without-pip @VENV_OPTIONS@ "$place/venv" ||
    fail 3 "no environment can be made in $place/venv. Next: apt-get install python3-venv"
PIP_CONFIG_FILE=/dev/null "$place/venv/bin/python" "$(echo "$here"/pip/pip-*.whl)/pip" \
    --isolated --disable-pip-version-check install --quiet --no-index --no-cache-dir \
    --find-links "$here/wheels" -r "$here/requirements.txt" ||
    fail 9 "the wheels cannot be installed in $place/venv"

edgekit=$place/venv/bin/edgekit
mkdir -p "$place/$name"
part=$place/$name/.current.edgekit.part-$$
trap 'rm -f "$part"' EXIT
cp "$here/$name.edgekit" "$part" || fail 9 "the bundle cannot be copied to $place/$name"
@BUILD@"$edgekit" verify --quiet "$part" ||
    fail $? "the bundle does not pass here; what was installed before is still in its place"
if [ -f "$place/$name/current.edgekit" ]; then
    ln -f "$place/$name/current.edgekit" "$place/$name/previous.edgekit"
fi
mv -f "$part" "$place/$name/current.edgekit"

printf 'installed: %s\n' "$edgekit"
printf 'bundle:    %s\n' "$place/$name/current.edgekit"
demo=@DEMO@
if [ -n "$demo" ] && [ ! -f "$place/$name/demo.env" ]; then
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    # Whoever has the token sees the page: root alone reads it here.
    (umask 077 && printf '%s\n' "EDGEKIT_TOKEN=$token" \
        '# More for the command, such as --port 80, --threads 2, --certificate FILE --key FILE' \
        'DEMO_OPTIONS=' >"$place/$name/demo.env")
fi
for unit in "$here"/edgekit-"$name"*.service; do
    unit=$(basename "$unit")
    sed "s|@PLACE@|$place|g" "$here/$unit" >"$place/$name/$unit"
    if [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then
        cp "$place/$name/$unit" /etc/systemd/system/
        systemctl daemon-reload
        printf 'unit:      %s; start it, now and with the system: systemctl enable --now %s\n' "$unit" "$unit"
    else
        printf 'unit:      %s\n' "$place/$name/$unit"
    fi
done
if [ -n "$demo" ]; then
    printf 'page:      http://THIS-DEVICE:8990/TOKEN/, with the token in %s\n' "$place/$name/demo.env"
fi
