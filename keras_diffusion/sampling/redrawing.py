"""Redrawing: an image whose class a reader doubts is drawn once more, and the more believed of the two stays.

Guidance makes the images of a class alike to make them right; this leaves the right ones as they are. Few are drawn twice, and no
image more often. It is a choice: an image at the threshold may be drawn again by one program and not by another that rounds otherwise.

Reference: Razavi et al. 2019, "Generating Diverse High-Fidelity Images with VQ-VAE-2", section 3.3, rejects by a classifier too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_diffusion.errors import is_number, shown

BELOW = 0.9  # what is asked of a reader's probability unless told otherwise


class Redraw(NamedTuple):
    """What decides which images are drawn again.

    Attributes:
        reader: callable, images float32 [N, H, W, C] in [0, 1] -> probabilities [N, K].
        below: images whose class has a smaller probability are drawn again.
        num_classes: K.
        round_up: whether so many are drawn again as a power of two, the last ones for nothing: few sizes for a loop that is compiled
            for each.
    """

    reader: Callable
    below: float
    num_classes: int
    round_up: bool = False

    def better(self, images, labels, again):
        """The images, with those that were drawn again and are believed more in their place.

        Args:
            images: float32 [N, H, W, C] in [0, 1].
            labels: int [N] in 0..K; no class, K, is never in doubt.
            again: callable, indices int [n] -> other images of them.
        """
        belief = self._belief(images, labels)
        doubted = np.flatnonzero(belief < self.below)
        if not doubted.size:
            return images
        size = 1 << (int(doubted.size) - 1).bit_length() if self.round_up else doubted.size
        others = again(np.resize(doubted, size))[: doubted.size]
        better = self._belief(others, labels[doubted]) > belief[doubted]
        made = np.array(images)
        made[doubted[better]] = others[better]
        return made

    def _belief(self, images, labels):
        """The probability of each image's own class: float [N]."""
        read, wanted = self.reader(images), (len(labels), self.num_classes)
        shape = getattr(read, "shape", None)
        if shape is None or tuple(shape) != wanted:
            got = type(read).__name__ if shape is None else tuple(shape)
            raise ValueError(f"reader: expected probabilities {wanted}, got {got}")
        read = np.asarray(read)
        if not ((read >= 0) & (read <= 1)).all():
            raise ValueError(
                f"reader: expected probabilities in [0, 1], got {read.min()}..{read.max()}"
            )
        sure = np.column_stack([read, np.ones(len(read), read.dtype)])
        return sure[np.arange(len(labels)), labels]


def wanted(below, find, *, num_classes, usual=0.0, callback=None, to_seed=None, round_up=False):
    """What `sample` is asked for by `redraw` and `reader`: a `Redraw`, or None where every image is drawn once.

    Args:
        below: number in [0, 1], 0 is off; None is `usual`, where images may be drawn again.
        find: callable without arguments -> the reader, or None; called where images may be drawn again.
        num_classes: K; 0 without classes.
        round_up: as in `Redraw`.
        usual: of the model.
        callback, to_seed: with one of them each image is drawn once: what a callback saw is what comes out, and on the way from
            one seed's image to another's there is no second draw.

    Raises:
        ValueError: where it is out of range, or there is no reader, or each image is drawn once.
    """
    once = next(
        (
            name
            for name, given in (("callback", callback), ("to_seed", to_seed))
            if given is not None
        ),
        None,
    )
    once = once if num_classes else "a model without classes"
    if below is None:
        below = 0.0 if once else usual
    if not is_number(below) or not 0 <= below <= 1:
        raise ValueError(f"redraw: expected a number in [0, 1], got {shown(below)}")
    if not below:
        return None
    if once:
        raise ValueError(f"redraw: expected 0 with {once}, got {shown(below)}")
    reader = find()
    if reader is None:
        raise ValueError(f"redraw: expected reader as well, got {shown(below)} alone")
    return Redraw(reader, below, num_classes, round_up)
