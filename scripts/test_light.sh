#!/bin/sh
# The runtime as devices have it: Python 3.9, the base install, no torch. The bundle it opens is
# built by the full environment: test_light.sh BUILDER_PYTHON [PYTEST_OPTION…].
set -eu
builder=$1
shift
python=$(sh scripts/python39.sh)
if [ ! -e .venv-light/.ready ] || [ pyproject.toml -nt .venv-light/.ready ]; then
    PYTHON=$python sh scripts/setup.sh .venv-light . constraints-device.txt
    .venv-light/bin/python -m pip install --quiet 'pytest>=8' 'pytest-xdist>=3.7' 'hypothesis>=6' 'jinja2>=3.1'
    touch .venv-light/.ready
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
VITAIE_TEST_BUNDLE=$("$builder" -m tests.support.build_small_bundle "$work")
export VITAIE_TEST_BUNDLE
.venv-light/bin/python -m pytest -q -m "not long" "$@" $(cat tests/light.txt)
