"""The sampling loop: what every driver shares, and the one in NumPy, around any network that is a callable."""

import functools
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from keras_diffusion.bars import bar
from keras_diffusion.sampling import guidance, request, tableau

_OPS = guidance.Ops(
    concat=lambda a, b: np.concatenate([a, b]),
    split=lambda x: np.split(x, 2),
    spread=lambda x: x.std(axis=(1, 2, 3), keepdims=True),
    where=np.where,
)


class Estimate(NamedTuple):
    """What a callback is handed after each row of the tableau.

    Attributes:
        images: slice of the request's images that these are.
        row, num_rows: the row, counted from 0, and how many there are.
        t: the time of the row's call, t/T.
        x0: float32 [N, H, W, C], the estimate of the images.
    """

    images: slice
    row: int
    num_rows: int
    t: float
    x0: np.ndarray


def drive(run, plan, asked, *, weights, redraw=None, callback=None, progress=False, out=None):
    """Draws the images of a request, in chunks of bounded memory; with a callback or a bar, row by row.

    Args:
        run: callable (plan, x, x0, asked, *, weights, noise) -> (x, x0): some rows on some images.
        plan: `Tableau`.
        asked: `Request`.
        weights: float32 [S], of guidance.
        redraw: `Redraw`, or None: every image is drawn once.
        callback: is called with an `Estimate` after each row.
        progress: whether to show a bar (needs tqdm).
        out: function from a shape to what the images are put into, slice after slice, as into a float32 array; None: one.

    Returns:
        float32 [N, H, W, C] in [0, 1].
    """
    whole = callback is None and not progress and _fits(len(plan), asked.image_shape)
    size = len(plan) if whole else 1
    chunks = asked.chunks(plan, rows=size)
    images = (out or array)((len(asked), *asked.image_shape))
    with bar(len(plan) * len(chunks), unit="calls") if progress else nullcontext() as shown:
        draw = functools.partial(_draw, run, plan, weights=weights, size=size)
        for chunk in chunks:
            part = asked.part(chunk)
            drawn = draw(part, told=functools.partial(_tell, shown, callback, chunk, plan))
            if redraw is not None:
                drawn = redraw.better(
                    drawn, part.labels, lambda some, part=part: draw(part.again(some))
                )
            images[chunk] = drawn
    return images


def _draw(run, plan, part, *, weights, size, told=None):
    """The images of one chunk, `size` rows at a time; `told` is called with each time's first row and estimate of x0."""
    x = part.start(plan)
    x0 = np.zeros_like(x)
    for i in range(0, len(plan), size):
        fresh = part.row_noise(plan, range(i, i + size))
        now = slice(i, i + size)
        x, x0 = run(plan[now], x, x0, part, weights=weights[now], noise=fresh)
        if told is not None:
            told(i, x0)
    return clip_unit(np.asarray(x))


def _tell(shown, callback, chunk, plan, i, x0):
    if shown is not None:
        shown.update()
    if callback is not None:
        t = plan.t[i] / plan.num_train_steps
        callback(Estimate(chunk, i, len(plan), t, np.array(x0)))


def _fits(rows, image_shape):
    """Whether the noise of so many rows for one image may be held at once."""
    return 4 * rows * int(np.prod(image_shape)) <= request.MAX_NOISE_BYTES


def array(shape):
    """Room for images."""
    return np.empty(shape, np.float32)


def clip_unit(x):
    """Clips to [0, 1], the range of images."""
    return np.clip(x, 0.0, 1.0)


def _limit(asked, clip):
    """What is done to every estimate of x0: clipped, and the pixels put back that are kept."""
    bounded = clip_unit if clip else lambda x0: x0
    if asked.keep is None:
        return bounded
    return lambda x0: np.where(asked.keep, asked.image, bounded(x0))


def runner(network, *, null_label, guidance_rescale=0.0, clip=True):
    """`drive`'s `run` for a network on NumPy arrays."""
    both = guidance.guided(network, null_label=null_label, ops=_OPS, rescale=guidance_rescale)
    alone = guidance.unconditional(network, null_label=null_label)

    def call(x, t, label, scale):
        if (scale == 1).all():
            return network(x, t, label)
        if ((scale == 0) | (label == null_label)).all() and not guidance_rescale:
            return alone(x, t, label)
        return both(x, t, label, scale[:, None, None, None])

    def run(plan, x, x0, asked, *, weights, noise):
        limit, label = _limit(asked, clip), asked.labels.astype(np.int32)
        for t, row, weight, fresh in zip(
            plan.t, plan.rows.astype(np.float32), weights, noise, strict=True
        ):
            t = np.full(len(x), t / plan.num_train_steps, np.float32)
            out = np.asarray(call(x, t, label, guidance.scale_now(asked.scale, weight)), np.float32)
            x, x0 = tableau.step(x, x0, out, fresh, tableau.Row(*row), limit, clip_unit)
        return x, x0

    return run


def sample(
    network,
    plan,
    labels,
    *,
    image_shape,
    num_classes,
    guidance_scale=1.0,
    guidance_interval=None,
    guidance_rescale=0.0,
    clip=True,
    callback=None,
    progress=False,
    **options,
):
    """Draws images by a tableau.

    Args:
        network: callable (x float32 [N, H, W, C], t float32 [N] = t/T, label int32 [N]) -> out like x.
        plan: `Tableau`.
        labels: int [N] in 0..num_classes.
        image_shape: (H, W, C).
        num_classes: K, which is also the null label.
        guidance_scale: a number, or one for each image [N]: 0 is unconditional, 1 is off.
        guidance_interval: (low, high) of t/T between which guidance acts; None: everywhere.
        guidance_rescale: as `guidance.guided` takes it.
        clip: whether every estimate of x0 is clipped to [0, 1].
        callback, progress: as `drive` takes them.
        options: `seed`, `indices`, `to_seed`, `fraction`, `start_from`, `keep`, as `request.make` takes them.

    Returns:
        float32 [N, H, W, C] in [0, 1].

    Raises:
        ValueError: where an argument is out of range.
    """
    asked = request.make(
        labels,
        image_shape=image_shape,
        num_classes=num_classes,
        guidance_scale=guidance_scale,
        **options,
    )
    run = runner(network, null_label=num_classes, guidance_rescale=guidance_rescale, clip=clip)
    weights = guidance.weights(plan, guidance_interval)
    return drive(run, plan, asked, weights=weights, callback=callback, progress=progress)
