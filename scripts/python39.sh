#!/bin/sh
# Print a command that runs Python 3.9, found on the path or through pyenv; fail plainly otherwise.
set -u
if python3.9 --version >/dev/null 2>&1; then
    command -v python3.9
    exit 0
fi
for found in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9.*/bin/python3.9; do
    if [ -x "$found" ]; then
        echo "$found"
        exit 0
    fi
done
echo "Python 3.9 is missing: it is what the devices run, install it or set PYENV_ROOT" >&2
exit 1
