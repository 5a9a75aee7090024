#!/bin/sh
# The vendor's environment, for real: test_device_env.sh BUILDER_PYTHON [PYTEST_OPTION…].
# Installs 4.5 GB once.
#
# A full-size bundle made with today's torch opens, verifies and classifies there in both engines;
# a full-size bundle made there verifies there and with today's packages; then the tests run there.
set -eu
today=$1
shift
python=$(sh scripts/python39.sh)
if [ ! -e .venv-device/.ready ] || [ pyproject.toml -nt .venv-device/.ready ]; then
    PYTHON=$python sh scripts/setup.sh .venv-device '.[builder]' constraints-device.txt
    .venv-device/bin/python -m pip install --quiet -c constraints-device.txt \
        'pytest>=8' 'pytest-xdist>=3.7' 'hypothesis>=6' 'scikit-learn>=1.3'
    touch .venv-device/.ready
fi
device=.venv-device/bin
bin=$(dirname "$today")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
variant=vit_base_patch16_224
photo=builder/vitaie/builder/photos/cat.jpg

say() { echo "== $*"; }

"$device/vitaie-build" doctor --quiet
"$today" examples/make_checkpoint.py $variant -o "$work/$variant.npz"

say "a bundle of today's torch, opened by the vendor's environment"
made=$("$bin/vitaie-build" bundle $variant --checkpoint "$work/$variant.npz" --store "$work/today" --quiet --skip-measure)
"$device/vitaie" verify "$made" --quiet
for target in cpu torchscript-cpu-fp32; do
    "$device/vitaie" classify "$made" $photo --top-k 1 --target $target --quiet
done

say "a bundle of the vendor's environment, verified there and with today's packages"
made=$("$device/vitaie-build" bundle $variant --checkpoint "$work/$variant.npz" --store "$work/device" --quiet --skip-measure)
"$device/vitaie" verify "$made" --quiet
"$bin/vitaie" verify "$made" --quiet

say "the tests, in the vendor's environment"
"$device/python" -m pytest -q -m "not long" "$@" --ignore tests/test_full_size.py \
    --ignore tests/test_report_page.py # which needs a browser and its driver
say "all passed"
