"""How far one set of images is from another, in features [N, F] of a judge.

The smaller the count, the larger the Fréchet distance that even real images have: compare at equal counts only, and beside real images.
"""

import numpy as np
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
_BLOCKS = 10


def frechet(one, other):
    """Fréchet distance of the normal distributions with the sets' means and covariances.

        |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    Args:
        one, other: float [N, F] and [M, F], N and M more than F, for covariances of full rank.

    Reference: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule".
    """
    return frechet_of_moments(moments(one), moments(other))


def moments(features):
    """Mean [F] and covariance [F, F] in float64."""
    features = np.asarray(features, np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def frechet_of_moments(one, other):
    """As `frechet`, of (mean, covariance)."""
    return frechet_from(other)(one)


def frechet_from(other):
    """`frechet_of_moments` of many sets and one other: a function of the set's (mean, covariance).

    Args:
        other: (mean, covariance), whose root is taken once: most of the time, where one covariance meets many.
    """
    m2, c2 = other
    values, vectors = linalg.eigh(c2)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def distance(one):
        m1, c1 = one
        # tr (C1 C2)^(1/2) = tr (R C1 R)^(1/2) with R = C2^(1/2): symmetric, so no complex rounding.
        cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ c1 @ root), 0)).sum()
        return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross)

    return distance


def kernel(one, other, *, seed=0):
    """Kernel distance (KID): the unbiased squared MMD with the kernel (x·y/F + 1)³, in blocks that share no row.

    Args:
        one, other: float [N, F] and [M, F], at least 20 rows each.
        seed: of the rows' order.

    Returns:
        float [10], a value for each block, independent of each other: their mean is the distance, 0 in expectation for equal distributions.

    Reference: Bińkowski et al. 2018, "Demystifying MMD GANs"; Zaremba et al. 2013, "B-test", for the blocks.
    """
    rng = np.random.default_rng(seed)
    size = min(len(one), len(other)) // _BLOCKS
    x, y = (
        np.asarray(some, np.float64)[rng.permutation(len(some))[: size * _BLOCKS]]
        for some in (one, other)
    )
    return np.array(
        [_mmd(a, b) for a, b in zip(np.split(x, _BLOCKS), np.split(y, _BLOCKS), strict=True)]
    )


def _mmd(x, y):
    n, features = x.shape
    xx, yy, xy = ((a @ b.T / features + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in (xx, yy))
    return within - 2 * xy.mean()


def manifold(fake, real):
    """Precision and recall, density and coverage, by balls around each point that reach its k-th neighbour.

    Args:
        fake, real: float [N, F] and [M, F].

    Returns:
        A dict of vectors whose means are the four values: `precision` [N] (whether a fake is in any real's ball), `recall` [M] (whether
        a real is in any fake's ball), `density` [N] (how many real balls a fake is in, by k), `coverage` [M] (whether a real's ball has
        a fake in it).

    Reference: Kynkäänniemi et al. 2019, "Improved Precision and Recall"; Naeem et al. 2020, "Reliable Fidelity and Diversity".
    """
    fake, real = (np.asarray(some, np.float32) for some in (fake, real))
    real_radius, fake_radius = radii(real), radii(fake)
    n, m = len(fake), len(real)
    found = {
        "precision": np.zeros(n, bool), "recall": np.zeros(m, bool),
        "density": np.zeros(n), "coverage": np.zeros(m, bool),
    }  # fmt: skip
    squared = (real**2).sum(axis=1)
    for i in range(0, n, 1000):  # a slice of the fakes at a time, so that memory stays flat
        part = slice(i, i + 1000)
        square = (fake[part] ** 2).sum(axis=1)[:, None] + squared - 2 * fake[part] @ real.T
        distance = np.sqrt(np.maximum(square, 0))
        inside = distance <= real_radius
        found["precision"][part] = inside.any(axis=1)
        found["density"][part] = inside.sum(axis=1) / NEIGHBOURS
        found["coverage"] |= inside.any(axis=0)
        found["recall"] |= (distance <= fake_radius[part, None]).any(axis=0)
    return found


def radii(points):
    """Distance of each point [N, F] to its k-th neighbour among the others: [N]."""
    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, algorithm="brute").fit(points)
    return near.kneighbors(points)[0][:, -1]


def nearest(images, among):
    """The nearest of many images to each of some, by the Euclidean distance of their pixels.

    Args:
        images: float [N, ...].
        among: float [M, ...].

    Returns:
        (distances [N], indices [N] into `among`).
    """
    flat, others = (some.reshape(len(some), -1).astype(np.float32) for some in (images, among))
    near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    distance, index = near.kneighbors(flat)
    return distance[:, 0], index[:, 0]
