"""What the predictions of single images come to: classes, and images on which two models differ."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitaie.manifests.measurement import Images


class ClassCount(NamedTuple):
    """How many images of one class there are, and of how many it is the target's first class."""

    label: int
    images: int
    right: int


class Disagreement(NamedTuple):
    """An image to which target and source give different first classes, all by index."""

    path: str
    sha256: str
    label: int
    target: int
    source: int

    @property
    def kind(self) -> str:
        """Which of the two is right."""
        if self.source == self.label:
            return "right in the source only"
        return "right in the target only" if self.target == self.label else "right in neither"


_KINDS = ("right in the source only", "right in the target only", "right in neither")


def classes_worst_first(images: Images) -> list[ClassCount]:
    """Return each class that has an image; of equal shares the one with more images first."""
    total = Counter(images.label)
    right = Counter(
        label for label, classes in zip(images.label, images.target) if classes[0] == label
    )
    counts = [ClassCount(index, count, right[index]) for index, count in total.items()]
    return sorted(counts, key=lambda each: (each.right / each.images, -each.images, each.label))


def disagreements(images: Images) -> Sequence[Disagreement]:
    """Return every image on which the two differ, what the target lost first, then by path."""
    found = [
        Disagreement(path, digest, label, target[0], source[0])
        for path, digest, label, target, source in zip(
            images.path, images.sha256, images.label, images.target, images.source or ()
        )
        if target[0] != source[0]
    ]
    return sorted(found, key=lambda each: (_KINDS.index(each.kind), each.path))
