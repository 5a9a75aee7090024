"""A strict double of ``torch_aie`` and ``mindietorch``: it refuses what their contract forbids.

Nobody here has the hardware, and the documentation says little of what happens when a rule is
broken. The double breaks at once, so that code which passes on it keeps every rule that is known.
One folder for each version, to be put on ``sys.path`` or ``PYTHONPATH``:

    t200   torch_aie of 6.3.T200
    rc1    mindietorch of 1.0.RC1
    v100   mindietorch of 1.0.0

Its version is ``double``, and nothing it does is evidence of what a device does. ``contract``
holds what the versions share; ``tests/support/ascend.py`` puts it in place and takes it away.
"""
