#!/bin/sh
# What the C++ loader is built with: installed where it may be, or said plainly to be missing.
set -eu
packages='catch2 libcli11-dev libjpeg62-turbo-dev libpng-dev libssl-dev nlohmann-json3-dev'

missing() {
    echo "setup: $1" >&2
    exit 1
}

for tool in cmake make c++; do
    command -v "$tool" >/dev/null 2>&1 ||
        missing "$tool is missing: apt-get install cmake make g++ $packages"
done

# Other systems name the packages otherwise: CMake then says which one it does not find.
command -v dpkg-query >/dev/null 2>&1 || exit 0
wanted=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        wanted="$wanted $package"
done
[ -n "$wanted" ] || exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo=$(command -v sudo || true)
[ "$(id -u)" = 0 ] || [ -n "$sudo" ] || missing "packages are missing: apt-get install$wanted"
wait='-o DPkg::Lock::Timeout=300' # for another installation, which may be running
echo "setup: installing$wanted" >&2
# shellcheck disable=SC2086  # a list of words
{ $sudo apt-get $wait install -y -q $wanted ||
    { $sudo apt-get update -q && $sudo apt-get $wait install -y -q $wanted; }; } >&2 ||
    missing "packages could not be installed: apt-get install$wanted"
