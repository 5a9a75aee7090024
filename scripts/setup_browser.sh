#!/bin/sh
# The browser that tests look at pages with: installed where it may be, or said plainly to be missing.
set -eu
packages='chromium fonts-inter' # the page names Inter first; with it a picture is the same anywhere

missing() {
    echo "setup: $1" >&2
    exit 1
}

if command -v dpkg-query >/dev/null 2>&1; then
    wanted=
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
            wanted="$wanted $package"
    done
    [ -n "$wanted" ] || exit 0
    sudo=
    [ "$(id -u)" = 0 ] || sudo=$(command -v sudo || true)
    [ "$(id -u)" = 0 ] || [ -n "$sudo" ] || missing "packages are missing: apt-get install$wanted"
    echo "setup: installing$wanted" >&2
    # shellcheck disable=SC2086  # a list of words
    { $sudo apt-get install -y -q --no-install-recommends $wanted ||
        { $sudo apt-get update -q &&
            $sudo apt-get install -y -q --no-install-recommends $wanted; }; } >&2 ||
        missing "packages could not be installed: apt-get install$wanted"
fi
command -v chromium >/dev/null 2>&1 || missing "chromium is missing: tests look at pages with it"
