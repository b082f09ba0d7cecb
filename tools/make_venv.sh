#!/bin/sh
# Makes a virtual environment that can build the core, or leaves the one that is there as it is.
# It is made anew when another PYTHON is asked for, or when the project's folder has moved since.
# Usage: tools/make_venv.sh PYTHON VENV ORIGIN   (ORIGIN "file": nobody asked for PYTHON, any that is there will do)
set -eu
cd "$(dirname "$0")/.."

python=$1
venv=$2
origin=$3
stamp=$venv/made_by
if [ "$origin" = file ] && [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$PWD" ] && "$venv/bin/python" -c "" 2>/dev/null; then
    python=$venv/bin/python
fi
sh tools/prepare.sh "$python"

version=$("$python" -c 'import sys; print(sys.base_prefix, sys.version.replace("\n", " "))')
made_by=$(printf '%s\n%s' "$PWD" "$version")
[ "$(cat "$stamp" 2>/dev/null)" != "$made_by" ] || exit 0

echo "sentpool: making $venv with $("$python" --version)"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check "setuptools>=77" "numpy>=2" ||
    { echo "sentpool: pip could not install setuptools and numpy into $venv (its words are above)" >&2; exit 1; }
printf '%s\n' "$made_by" >"$stamp"
