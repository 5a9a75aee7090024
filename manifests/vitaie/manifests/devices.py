"""What runs a target: the processor's threads, or the package of a device."""

from __future__ import annotations

MAX_THREADS = 1024
"""Engines start as many threads as they are told, and may never be done with it."""

MAX_BATCH = 1024
"""Images that an engine is given at once."""

MAX_RECORD_BYTES = 2**28
"""Of the evidence of one measurement: every image of ImageNet's training set has its row."""

PACKAGES = ("mindietorch", "torch_aie")
"""The names of the Ascend device's package, the newer one first."""

DOUBLE = "double"
"""The version that the tests' double of the package gives: what it says ran on no device."""
