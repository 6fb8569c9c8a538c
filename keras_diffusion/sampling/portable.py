"""The sampler in operators alone, for what can't call Python between steps: an ONNX graph, a SavedModel's signature.

It runs over a table `rows` that is given at run time, one row a call of the network. Sampler, steps, spacing and
guidance interval are all in there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_diffusion import noise
from keras_diffusion.sampling import guidance, tableau

COLUMNS = ("t", *tableau.Row._fields, "weight")


def table(plan, weights):
    """A tableau as the table that exported samplers take.

    Args:
        plan: `Tableau`.
        weights: float32 [S], of guidance, as `guidance.weights` gives them.

    Returns:
        float32 [S, 9]: t/T, p, q, a, b, d, c, e, weight.
    """
    t = plan.t / plan.num_train_steps
    return np.column_stack([t, plan.rows, weights]).astype(np.float32)


class Ops(NamedTuple):
    """What the sampler needs of a framework besides operators. Words are int64, images float32."""

    maths: noise.Maths
    count: Callable  # x -> number of its rows
    any_other: (
        Callable  # (x, value) -> 1 where any number of x isn't the value, else 0, like a count
    )
    part: Callable  # (x, begin, end) -> some of its rows
    concat: Callable  # (a, b) -> both along the batch
    fill: Callable  # (number, count) -> float32 [count]
    column: Callable  # x [N] -> [N, 1]
    per_image: Callable  # x [N] -> [N, 1, 1, 1]
    images: Callable  # (a, b float64 [N, P], shape) -> the numbers a0 b0 a1 b1 ... as float32 [N, *shape]
    clip: Callable  # to [0, 1]


def image_keys(seed, labels, indices):
    """`noise.image_keys` on int64 arrays: seed in [0, 2^63), labels and indices [N]."""
    words = (seed & noise.MASK, seed // 2**32)
    return noise.threefry(words, (labels, indices), noise.INT64)


def normal(keys, *, draw, shape, ops):
    """`noise.normal` on int64 arrays: draw 0 for the initial noise, i + 1 for row i; float32 [N, *shape]."""
    pairs = np.arange((int(np.prod(shape)) + 1) // 2, dtype=np.int64)[None]
    keys = tuple(ops.column(key) for key in keys)
    a, b = noise.threefry(keys, (draw, pairs), noise.INT64)
    return ops.images(*noise.box_muller(a, b, maths=ops.maths), shape)


def step(network, x, x0, label, scale, row, fresh, *, null_label, ops):
    """One row of the table, guided.

    Where no image is guided in this row, the branch without a class has no images: it costs nothing.

    Args:
        network: callable (x, t, label) -> out.
        x, x0: float32 [N, H, W, C], the state and the last estimate.
        label: int [N].
        scale: float32 [N], guidance scale.
        row: the row's nine numbers, `COLUMNS`.
        fresh: noise, like x.
        null_label: the label that means no class.
        ops: `Ops`.

    Returns:
        (the next state, the estimate of x0).
    """
    t, *coefficients, weight = row
    now = guidance.scale_now(scale, weight)
    count = ops.count(label)
    more = count * ops.any_other(now, 1.0)
    out = network(
        ops.concat(x, ops.part(x, 0, more)),
        ops.fill(t, count + more),
        ops.concat(label, ops.part(label, 0, more) * 0 + null_label),
    )
    cond, uncond = ops.part(out, 0, count), ops.part(out, more, more + count)
    out = guidance.combine(cond, uncond, ops.per_image(now))
    return tableau.step(x, x0, out, fresh, tableau.Row(*coefficients), ops.clip, ops.clip)
