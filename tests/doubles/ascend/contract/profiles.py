"""What differs between the versions, and what each of them does not have."""

from __future__ import annotations

from typing import NamedTuple, Optional


class Profile(NamedTuple):
    """One version of the package.

    Attributes:
        name: Its folder.
        enums: Where ``PrecisionPolicy`` is: the package itself, or ``_enums`` inside it.
        policies: The members of ``PrecisionPolicy``.
        tensor_format: ``Input``'s default format; None where Python has no ``TensorFormat``.
        min_block_size: ``compile``'s default.
        gears: Whether ``inputs`` may be a list of lists.
        only_npu: Whether compiled modules refuse tensors of the CPU.
        returns_engine: Whether ``export_engine`` returns the bytes, or writes to ``path``.
    """

    name: str
    enums: str
    policies: dict[str, int]
    tensor_format: Optional[str]
    min_block_size: int
    gears: bool
    only_npu: bool
    returns_engine: bool


_POLICIES = {"PREF_FP32": 0, "FP16": 1, "FP32": 2}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("t200", "_enums", _POLICIES, None, 3, False, False, False),
        Profile("rc1", "", _POLICIES, "ND", 3, True, False, True),
        Profile("v100", "", {**_POLICIES, "PREF_FP16": 3}, "NCHW", 1, True, True, True),
    )
}
