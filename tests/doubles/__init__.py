"""What stands in for things the tests cannot have, or must not trust.

The modules here are workers that a benchmark runs in place of its own, each with an engine that
is named for it. ``ascend`` is a strict double of the Ascend family's Python package.
"""
