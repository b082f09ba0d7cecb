#!/bin/sh
# Makes sure that what pip cannot install is there: Python with venv, its headers, a C compiler, BLIS.
# As root on Debian or Ubuntu the missing packages are installed; otherwise one line says what to type.
# Usage: tools/prepare.sh PYTHON
set -eu
cd "$(dirname "$0")/.."

python=$1
fail() {
    echo "sentpool: $*" >&2
    exit 1
}
is_root_on_debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}
python_says() {
    "$python" -c "$1" 2>/dev/null
}
is_command() {
    command -v "$1" >/dev/null
}
compiles() {
    # shellcheck disable=SC2086
    echo '#include <math.h>' | ${CC:-cc} -x c -c -o /dev/null - 2>/dev/null
}

# Names of Debian packages of all that is missing.
list_missing() {
    if ! command -v "$python" >/dev/null; then
        [ "$python" = python3 ] || fail "PYTHON=$python is not a command"
        echo python3 python3-venv python3-dev
    else
        python_says 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            fail "$python is older than Python 3.10 (or does not start); name another: PYTHON=python3.12"
        # A Python that did not come from Debian has names of its own only in Debian's folders.
        name=$(python_says 'import sys; print("python%d.%d" % sys.version_info[:2])')
        python_says 'import ensurepip, venv' || echo "$name-venv"
        python_says 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
            echo "$name-dev"
    fi
    # shellcheck disable=SC2086
    [ -z "${CC:-}" ] || is_command $CC || fail "CC=$CC is not a command"
    compiles || echo gcc libc6-dev
}

missing=$(list_missing)
if [ -n "$missing" ]; then
    missing=$(echo $missing)
    command -v apt-get >/dev/null ||
        fail "missing (by their Debian names): $missing; install them with your system's package manager"
    is_root_on_debian || fail "missing; run: sudo apt-get install $missing"
    mkdir -p build
    echo "sentpool: apt-get install $missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >build/apt.log 2>&1 </dev/null ||
        fail "apt-get install $missing failed; see build/apt.log"
    missing=$(list_missing)
    [ -z "$missing" ] || fail "still missing after apt-get install:" $missing "(name another Python: PYTHON=python3.12)"
fi

"$python" tools/find_blis.py >/dev/null 2>&1 || {
    [ -z "${BLIS_DIR:-}" ] || exec "$python" tools/find_blis.py
    command -v apt-get >/dev/null || exec "$python" tools/find_blis.py
    echo "sentpool: getting libblis-serial-dev"
    sh tools/get_blis.sh
    "$python" tools/find_blis.py >/dev/null
}
