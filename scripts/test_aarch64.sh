#!/bin/sh
# The part of the C++ library that needs no torch, built for 64-bit ARM with Debian's packages, and
# its tests under an emulator: those of C++, and the comparisons with Python, pixels among them.
#
#   sh scripts/test_aarch64.sh PYTHON
set -eu

python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/cpp/build-aarch64
triplet=aarch64-linux-gnu
packages="g++-$triplet qemu-user libjpeg62-turbo-dev:arm64 libpng-dev:arm64 libssl-dev:arm64
    libstdc++6:arm64"

missing() {
    ! command -v $triplet-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null ||
        ! [ -e /usr/lib/$triplet/libpng.so ]
}

if missing; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=$(command -v sudo || true)
    wait='-o DPkg::Lock::Timeout=300' # for another installation, which may be running
    # shellcheck disable=SC2086  # lists of words
    { $sudo dpkg --add-architecture arm64 && $sudo apt-get update -q &&
        $sudo apt-get $wait install -y -q $packages; } >&2 || true
    if missing; then
        echo "the cross-compiler, the emulator or an arm64 library is missing; on Debian:" >&2
        echo "  dpkg --add-architecture arm64 && apt-get update && apt-get install" $packages >&2
        exit 6
    fi
fi

export PKG_CONFIG_LIBDIR=/usr/lib/$triplet/pkgconfig # CMake asks it where OpenSSL is
cmake -S "$root/cpp" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$triplet-g++ \
    -DCMAKE_LIBRARY_ARCHITECTURE=$triplet -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64 \
    -DCMAKE_SKIP_BUILD_RPATH=ON -DVITAIE_BUILD_TESTS=ON -DVITAIE_WITH_TORCH=OFF
cmake --build "$build" --parallel "$(nproc)"
qemu-aarch64 "$build/tests/vitaie-tests"

# Programs that pytest can start as they are.
mkdir -p "$build/emulated/tests"
for program in vitaie-preprocess-file vitaie-encode-jpeg vitaie-judge vitaie-check-archives; do
    printf '#!/bin/sh\nexec qemu-aarch64 "%s" "$@"\n' "$build/tests/$program" \
        >"$build/emulated/tests/$program"
    chmod +x "$build/emulated/tests/$program"
done
cd "$root"
# Emulated, 2,300 images would take half an hour; a hundred and all broken ones are compared.
VITAIE_CPP_EMULATED=1 VITAIE_CPP_BUILD=$build/emulated "$python" -m pytest -q -m "not long" \
    -k "not 2300_images and not hang and not end_no_process" \
    tests/test_cpp_preprocess.py tests/test_cpp_vectors.py tests/test_cpp_torchscript.py
