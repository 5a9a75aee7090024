# To be sourced: the distribution's packages, installed where they may be, or said plainly to be missing.

missing() {
    echo "setup: $1" >&2
    exit 1
}

# Install those of the packages named that are not there. Does nothing where there is no dpkg: other
# systems name packages otherwise, and whoever needs one says what it does not find.
install_packages() {
    command -v dpkg-query >/dev/null 2>&1 || return 0
    wanted=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
            wanted="$wanted $package"
    done
    [ -n "$wanted" ] || return 0
    sudo=
    [ "$(id -u)" = 0 ] || sudo=$(command -v sudo || true)
    [ "$(id -u)" = 0 ] || [ -n "$sudo" ] || missing "packages are missing: apt-get install$wanted"
    echo "setup: installing$wanted" >&2
    apt="$sudo apt-get -o DPkg::Lock::Timeout=300" # another installation may be running
    # shellcheck disable=SC2086  # lists of words
    { $apt install -y -q --no-install-recommends $wanted ||
        { $apt update -q && $apt install -y -q --no-install-recommends $wanted; }; } >&2 ||
        missing "packages could not be installed: apt-get install$wanted"
}
