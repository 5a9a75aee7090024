"""What a device's targets are compiled with, as a manifest names it."""

from __future__ import annotations

PACKAGES = ("mindietorch", "torch_aie")
"""The names of the Ascend device's package, the newer one first."""

DOUBLE = "double"
"""The version that the tests' double of the package gives: what it says ran on no device."""
