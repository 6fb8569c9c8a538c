"""Sampling noise from a counter-based generator: the same seed gives the same numbers in any language.

Threefry-2x32 with 20 rounds turns a key and a counter of two 32-bit words each into two random words. The key of an
image comes from the seed and from (label, index within the label); the counter is (draw, pair of pixels). So image k
of a label doesn't depend on how many are asked for, in which order or in what chunks.

Reference: Salmon, Moraes, Dror & Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".
"""

import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)
MAX_SEED = 2**63 - 1


def threefry(key, counter):
    """Threefry-2x32-20.

    Args:
        key, counter: pairs of uint32 arrays that broadcast together.

    Returns:
        Pair of uint32 arrays.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^32
        keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
        a, b = counter[0] + keys[0], counter[1] + keys[1]
        for group in range(5):
            for rotation in _ROTATIONS[4 * (group % 2) : 4 * (group % 2) + 4]:
                a = a + b
                b = ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))) ^ a
            a = a + keys[(group + 1) % 3]
            b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


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
    if indices.shape != labels.shape or indices.dtype.kind not in "iu" or indices.min() < 0:
        raise ValueError(
            f"indices: expected as many integers of at least 0 as labels {labels.shape}, got {indices.shape} of {indices.dtype}"
        )
    seed = (np.uint32(int(seed) & 0xFFFFFFFF), np.uint32(int(seed) >> 32))
    return threefry(seed, (labels.astype(np.uint32), indices.astype(np.uint32)))


def normal(keys, *, draw, shape):
    """Standard normal numbers for one draw of each image.

    Box-Muller in float64: with words (a, b), radius sqrt(-2 log((a + 1/2)/2^32)) and angle 2 pi b/2^32; number 2i is
    radius*cos, number 2i+1 is radius*sin, in the row-major order of `shape`.

    Args:
        keys: pair of uint32 arrays [N], from `image_keys`.
        draw: 0 for the initial noise, i + 1 for row i of the tableau.
        shape: shape of one image.

    Returns:
        float32 [N, *shape].
    """
    size = int(np.prod(shape))
    pairs = np.arange((size + 1) // 2, dtype=np.uint32)
    a, b = threefry(tuple(k[:, None] for k in keys), (np.uint32(draw), pairs[None]))
    radius = np.sqrt(-2.0 * np.log((a + 0.5) * 2.0**-32))
    angle = (2.0 * np.pi * 2.0**-32) * b
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return both.reshape(len(a), -1)[:, :size].astype(np.float32).reshape(-1, *shape)


def occurrence(labels):
    """The number of each image among those of its label: [3, 1, 3, 3] -> [0, 0, 1, 2]."""
    labels = np.asarray(labels)
    indices = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        chosen = labels == label
        indices[chosen] = np.arange(chosen.sum())
    return indices
