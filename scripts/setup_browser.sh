#!/bin/sh
# The browser that tests look at pages with: installed where it may be, or said plainly to be missing.
set -eu
. "$(dirname "$0")/packages.sh"

install_packages chromium fonts-inter # the page names Inter first; with it a picture is the same anywhere
command -v chromium >/dev/null 2>&1 || missing "chromium is missing: tests look at pages with it"
