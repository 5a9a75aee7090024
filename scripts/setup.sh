#!/bin/sh
# Make a virtual environment: setup.sh FOLDER REQUIREMENT [CONSTRAINTS]. Says plainly what is missing.
set -eu
folder=$1 requirement=$2 constraints=${3:-}
python=${PYTHON:-python3}

. "$(dirname "$0")/packages.sh"

command -v "$python" >/dev/null 2>&1 || missing "$python is missing: install Python 3.9 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    missing "$("$python" --version) is too old: Python 3.9 or newer is needed (PYTHON=… make)"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    missing "Python's venv module is missing: apt-get install python3-venv"

# strace fails the system calls of a publication one by one in the tests; all else does without.
command -v strace >/dev/null 2>&1 || (install_packages strace) ||
    echo "setup: strace is missing, the fault tests will fail: apt-get install strace" >&2

echo "setup: $folder with $("$python" --version), packages of $requirement: some minutes" >&2
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet ${constraints:+-c "$constraints"} -e "$requirement"
