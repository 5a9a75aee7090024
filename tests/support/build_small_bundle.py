"""Build the small bundle for an environment that cannot: ``python -m … FOLDER`` prints its path."""

import sys
from pathlib import Path

from examples.make_checkpoint import make
from tests.conftest import SMALL_CARD, SMALL_LABELS
from vitaie.builder.build import Options, build_bundle
from vitaie.manifests.card import load_card

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    card = folder / "small_vit.toml"
    card.write_text(SMALL_CARD, encoding="utf-8")
    (folder / "small_vit.txt").write_text(SMALL_LABELS, encoding="utf-8")
    checkpoint = make(load_card(card), folder / "small_vit.npz")
    print(build_bundle(str(card), checkpoint, Options(store=folder / "store")).path)
