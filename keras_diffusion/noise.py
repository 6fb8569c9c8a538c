"""Sampling noise from a counter-based generator: the same seed gives the same numbers in any language.

Threefry-2x32 with 20 rounds turns a key and a counter of two 32-bit words each into two random words. The key of an
image comes from the seed and from (label, index within the label); the counter is (draw, pair of pixels). So image k
of a label doesn't depend on how many are asked for, in which order or in what chunks.

Reference: Salmon, Moraes, Dror & Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
MASK = 0xFFFFFFFF
MAX_SEED = 2**63 - 1


class Words(NamedTuple):
    """Arithmetic modulo 2^32 on one kind of integer array."""

    constant: Callable  # int -> something that operators take beside an array
    add: Callable  # (a, b) -> a + b
    rotate: Callable  # (a, r) -> a with its 32 bits rotated to the left


UINT32 = Words(
    constant=np.uint32,
    add=lambda a, b: a + b,
    rotate=lambda a, r: (a << np.uint32(r)) | (a >> np.uint32(32 - r)),
)
# For arrays of 64-bit integers that hold 32-bit words; in operators that ONNX and TensorFlow have for int64.
INT64 = Words(
    constant=int,
    add=lambda a, b: (a + b) & MASK,
    rotate=lambda a, r: ((a * 2**r) & MASK) | (a // 2 ** (32 - r)),
)


def threefry(key, counter, words=UINT32):
    """Threefry-2x32-20. Operators only, on arrays of any framework.

    Args:
        key, counter: pairs of arrays of words that broadcast together.
        words: `Words`, their arithmetic.

    Returns:
        Pair of arrays of words.
    """
    with np.errstate(over="ignore"):  # NumPy's uint32 is modulo 2^32
        add = words.add
        keys = (key[0], key[1], key[0] ^ key[1] ^ words.constant(_PARITY))
        a, b = add(counter[0], keys[0]), add(counter[1], keys[1])
        for group in range(5):
            for rotation in _ROTATIONS[4 * (group % 2) : 4 * (group % 2) + 4]:
                a = add(a, b)
                b = words.rotate(b, rotation) ^ a
            a = add(a, keys[(group + 1) % 3])
            b = add(add(b, keys[(group + 2) % 3]), words.constant(group + 1))
    return a, b


class Maths(NamedTuple):
    """What Box-Muller needs of a framework besides operators."""

    real: Callable  # words -> float64
    log: Callable
    sqrt: Callable
    sin: Callable


NUMPY = Maths(real=lambda a: a.astype(np.float64), log=np.log, sqrt=np.sqrt, sin=np.sin)


def box_muller(a, b, *, maths=NUMPY):
    """Two standard normal numbers from two words: radius*cos(angle) and radius*sin(angle), in float64.

    Radius sqrt(-2 log((a + 1/2)/2^32)), angle 2 pi b/2^32. The cosine is a sine, a quarter turn on: not every
    onnxruntime has a cosine for float64.
    """
    radius = maths.sqrt(maths.log((maths.real(a) + 0.5) * 2.0**-32) * -2.0)
    angle = maths.real(b) * (2.0 * np.pi * 2.0**-32)
    return radius * maths.sin(angle + np.pi / 2), radius * maths.sin(angle)


def image_keys(seed, labels, indices):
    """The generator's key of each image.

    Args:
        seed: int in [0, 2^63).
        labels: int [N], in [0, 2^32).
        indices: int [N], in [0, 2^32), the image's number among those of its label.

    Returns:
        Pair of uint32 arrays [N].
    """
    if not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed: expected an integer in [0, 2^63), got {seed!r}")
    labels, indices = np.asarray(labels), np.asarray(indices)
    if indices.shape != labels.shape or indices.dtype.kind not in "iu":
        raise ValueError(
            f"indices: expected as many integers as labels {labels.shape}, got {indices.shape} of {indices.dtype}"
        )
    if indices.min() < 0 or indices.max() > MASK:
        raise ValueError(
            f"indices: expected integers in [0, 2^32), got {indices.min()}..{indices.max()}"
        )
    seed = (np.uint32(int(seed) & 0xFFFFFFFF), np.uint32(int(seed) >> 32))
    return threefry(seed, (labels.astype(np.uint32), indices.astype(np.uint32)))


def again(seed):
    """The seed of second draws of a seed's images, itself with another bit 62: int in [0, 2^63)."""
    return int(seed) ^ 2**62


def normal(keys, *, draw, shape):
    """Standard normal numbers for one draw of each image.

    `box_muller` makes numbers 2i and 2i + 1 of the words of counter i, in the row-major order of `shape`.

    Args:
        keys: pair of uint32 arrays [N], from `image_keys`.
        draw: 0 for the initial noise, i + 1 for row i of the tableau.
        shape: shape of one image.

    Returns:
        float32 [N, *shape].
    """
    size = int(np.prod(shape))
    pairs = np.arange((size + 1) // 2, dtype=np.uint32)
    words = threefry(tuple(k[:, None] for k in keys), (np.uint32(draw), pairs[None]))
    both = np.stack(box_muller(*words), axis=-1)
    return both.reshape(len(both), -1)[:, :size].astype(np.float32).reshape(-1, *shape)


def occurrence(labels):
    """The number of each image among those of its label: [3, 1, 3, 3] -> [0, 0, 1, 2]."""
    labels = np.asarray(labels)
    indices = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        chosen = labels == label
        indices[chosen] = np.arange(chosen.sum())
    return indices
