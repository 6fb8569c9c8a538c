"""What a network predicts, as one row (m, n): out = m*x0 + n*eps.

Operators only: the arguments may be floats, NumPy arrays or tensors of any framework.
"""

_ROWS = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (1.0, -1.0),
}
NAMES = tuple(_ROWS)


def row(name, alpha, sigma):
    """(m, n) of `out = m*x0 + n*eps`.

    Args:
        name: "eps" (Ho et al. 2020), "x0", "v" (Salimans & Ho 2022, sign as in alpha*eps - sigma*x0) or "flow" (the
            velocity x0 - eps of Liu et al. 2022, in the course's direction, from noise to data).
        alpha, sigma: the schedule at the times in question.

    Raises:
        ValueError: where `name` is none of these.
    """
    if not isinstance(name, str) or name not in _ROWS:
        raise ValueError(f"prediction: expected one of {NAMES}, got {name!r}")
    return _ROWS[name](alpha, sigma)


def target(name, alpha, sigma, *, x0, eps):
    """What the network is trained to put out for xt = alpha*x0 + sigma*eps; shaped like `x0`."""
    m, n = row(name, alpha, sigma)
    return m * x0 + n * eps


def to_x0(name, alpha, sigma):
    """(p, q) of `x0 = p*xt + q*out`: the row and xt = alpha*x0 + sigma*eps, solved for x0.

    Raises:
        ZeroDivisionError: (floats) where the output and xt don't determine x0, as for eps where alpha = 0. With NumPy
            arrays the result isn't finite there; `Tableau` refuses such rows.
    """
    m, n = row(name, alpha, sigma)
    determinant = alpha * n - sigma * m
    return n / determinant, -sigma / determinant


def min_snr_weight(name, alpha, sigma, *, gamma, minimum):
    """The weight of the squared error of the output that makes min(SNR, gamma) the weight of x0's.

    Args:
        name: as in `row`.
        alpha, sigma: the schedule at the times in question, sigma > 0.
        gamma: bound of the weight; 5 in the paper.
        minimum: function of (array, number), elementwise, of the framework in use.

    Reference: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy".
    """
    m, n = row(name, alpha, sigma)
    error = sigma / (alpha * n - sigma * m)  # of x0 by an error of the output, at the same xt
    return minimum((alpha / sigma) ** 2, gamma) * error**2


def unit_weight(name, alpha, sigma, *, std):
    """The weight of the squared error of the output that makes it count in units of what a linear guess leaves.

    The error of x0 is weighed by SNR + 1/std²: with pixels of standard deviation `std`, a network that does no better
    than the best linear guess has a loss of 1 at every t.

    Args:
        name: as in `row`.
        alpha, sigma: the schedule at the times in question.
        std: standard deviation of the pixels.

    Reference: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 5.
    """
    m, n = row(name, alpha, sigma)
    return (alpha**2 * std**2 + sigma**2) / (std * (m * sigma - n * alpha)) ** 2
