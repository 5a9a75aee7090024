"""Everything a bundle says, as types: the manifest, the variant cards, the error codes.

This package imports nothing heavy by itself. ``vitaie.manifests.manifest`` and
``vitaie.manifests.card`` need pydantic; ``vitaie.manifests.errors`` needs the standard
library alone, so that ``import vitaie.runtime`` stays quick.
"""
