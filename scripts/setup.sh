#!/bin/sh
# Make a virtual environment: setup.sh FOLDER REQUIREMENT [CONSTRAINTS]. Says plainly what is missing.
set -eu
folder=$1 requirement=$2 constraints=${3:-}
python=${PYTHON:-python3}

missing() {
    echo "setup: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || missing "$python is missing: install Python 3.9 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    missing "$("$python" --version) is too old: Python 3.9 or newer is needed (PYTHON=… make)"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    missing "Python's venv module is missing: apt-get install python3-venv"

# strace fails the system calls of a publication one by one in the tests.
if ! command -v strace >/dev/null 2>&1; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=$(command -v sudo || true)
    if [ "$(id -u)" = 0 ] || [ -n "$sudo" ]; then
        { $sudo apt-get install -y -q strace ||
            { $sudo apt-get update -q && $sudo apt-get install -y -q strace; }; } >&2 || true
    fi
    command -v strace >/dev/null 2>&1 ||
        echo "setup: strace is missing, the fault tests will fail: apt-get install strace" >&2
fi

echo "setup: $folder with $("$python" --version)" >&2
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet ${constraints:+-c "$constraints"} -e "$requirement"
