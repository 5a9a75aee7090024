"""Load a bundle, classify images with it, and re-check what it claims.

    from vitaie import runtime

    model = runtime.load("bundles/vit_base_patch16_224")        # newest version; or …/1.2.0
    for p in model.classify("cat.jpg", top_k=5):
        print(p.label, p.probability)

``load`` checks every byte of the bundle before any parser sees it. All errors that bad input
can cause are ``VitaieError``s; ``vitaie.manifests.errors`` draws their tree.
"""

from vitaie.manifests.errors import (
    BundleError,
    DiskError,
    ImageError,
    InputError,
    ManifestError,
    TargetUnavailable,
    VitaieError,
)
from vitaie.runtime._claim import Again, Claim
from vitaie.runtime._model import Image, Model, Prediction, load
from vitaie.runtime._verify import Verdict, verify

__all__ = [
    "Again",
    "BundleError",
    "Claim",
    "DiskError",
    "Image",
    "ImageError",
    "InputError",
    "ManifestError",
    "Model",
    "Prediction",
    "TargetUnavailable",
    "Verdict",
    "VitaieError",
    "load",
    "verify",
]
