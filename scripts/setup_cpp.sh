#!/bin/sh
# What the C++ loader is built with: installed where it may be, or said plainly to be missing.
set -eu
. "$(dirname "$0")/packages.sh"
packages='catch2 libcli11-dev libjpeg62-turbo-dev libpng-dev libssl-dev nlohmann-json3-dev pkg-config'

for tool in cmake make c++; do
    command -v "$tool" >/dev/null 2>&1 ||
        missing "$tool is missing: apt-get install cmake make g++ $packages"
done
# shellcheck disable=SC2086  # a list of words
install_packages $packages # on other systems CMake says which one it does not find
