"""Classifier-free guidance: a wrapper around a network; no sampler knows of it.

Reference: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", with scale = 1 + w.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_diffusion.errors import is_number, shown

FLAT = 1e-4  # a spread below it is no spread: XLA's rounding leaves 4e-5 of a constant 7.7


class Ops(NamedTuple):
    """What guidance needs of a framework besides operators."""

    concat: Callable  # (a, b) -> both along the batch
    split: Callable  # x -> its two halves along the batch
    spread: Callable  # x [N, H, W, C] -> standard deviation of each image [N, 1, 1, 1]
    where: Callable  # (bools, a, b) -> a where they are True, else b


def scale_now(scale, weight):
    """The scale in a row where guidance acts by `weight`, as `weights` gives it: 1, which is off, where it doesn't."""
    return 1 + weight * (scale - 1)


def combine(cond, uncond, scale):
    """The guided output of the two branches."""
    return uncond + scale * (cond - uncond)


def unconditional(network, *, null_label):
    """The network without a class."""
    return lambda x, t, label: network(x, t, label * 0 + null_label)


def guided(network, *, null_label, ops, rescale=0.0):
    """A network that returns `uncond + scale*(cond - uncond)`, both branches as one doubled batch.

    Args:
        network: callable (x, t, label) -> out; x [N, H, W, C], t [N], label [N].
        null_label: the label that means no class.
        ops: `Ops`.
        rescale: how far the result's standard deviation is brought back to that of the branch with a class, in
            [0, 1]; against the glare of large scales. A result without any is left as it is.

    Returns:
        Callable (x, t, label, scale) -> out; scale is a number or [N, 1, 1, 1].

    Reference: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", equations 14-16.
    """
    if not is_number(rescale) or not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale: expected a number in [0, 1], got {shown(rescale)}")

    def both(x, t, label, scale):
        out = network(ops.concat(x, x), ops.concat(t, t), ops.concat(label, label * 0 + null_label))
        cond, uncond = ops.split(out)
        out = combine(cond, uncond, scale)
        if not rescale:
            return out
        spread = ops.spread(out)
        varies, one = spread > FLAT, 0 * spread + 1
        ratio = ops.where(varies, ops.spread(cond), one) / ops.where(varies, spread, one)
        return out * (1 + rescale * (ratio - 1))

    return both


def weights(plan, interval=None):
    """How far guidance acts in each row of a tableau: row i has the scale `1 + weights[i]*(scale - 1)`.

    Args:
        plan: `Tableau`.
        interval: (low, high) of t/T, in [0, 1]: guidance acts where low <= t/T <= high; None: everywhere.

    Returns:
        float32 [S]: 1 where it acts, else 0.

    Raises:
        ValueError: where `interval` isn't such a pair.

    Reference: Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality".
    """
    if interval is None:
        return np.ones(len(plan), np.float32)
    try:
        low, high = interval
    except (TypeError, ValueError):
        low = high = None
    if not (is_number(low) and is_number(high) and 0 <= low < high <= 1):
        raise ValueError(
            "guidance_interval: expected (low, high) of t/T with 0 <= low < high <= 1, "
            f"got {shown(interval)}"
        )
    t = plan.t / plan.num_train_steps
    slack = 1e-9  # t is a quotient
    return ((low - slack <= t) & (t <= high + slack)).astype(np.float32)
