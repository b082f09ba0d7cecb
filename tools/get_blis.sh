#!/bin/sh
# Gets the static, serial BLIS on Debian or Ubuntu: as root by apt-get install, otherwise by unpacking
# Debian's package into .blis/ of this project, where the build looks too.
set -eu
cd "$(dirname "$0")/.."

package=libblis-serial-dev
fail() {
    echo "sentpool: $*" >&2
    exit 1
}

command -v apt-get >/dev/null || fail "no apt-get here: build BLIS (configure --enable-static, no threading) and set BLIS_DIR to its prefix"
if [ "$(id -u)" = 0 ]; then
    mkdir -p build
    log=build/apt.log
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends "$package"; } >"$log" 2>&1 </dev/null ||
        fail "apt-get install $package failed; see $log"
    exit 0
fi

# The new folder takes its place by one rename, so an interrupted download leaves nothing half made.
command -v dpkg >/dev/null || fail "no dpkg here to unpack $package; install it as root: apt-get install $package"
new=.blis.new
rm -rf "$new"
mkdir -p "$new"
(cd "$new" && apt-get download "$package" >download.log 2>&1 </dev/null) ||
    fail "apt-get download $package failed; run: sudo apt-get update, or: sudo apt-get install $package"
dpkg -x "$new"/"$package"_*.deb "$new"
rm -rf "$new"/*.deb "$new"/download.log .blis
mv "$new" .blis
