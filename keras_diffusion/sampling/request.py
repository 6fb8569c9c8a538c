"""Which images are asked for: their labels, their noise, and what they start from."""

from dataclasses import dataclass, fields, replace

import numpy as np

from keras_diffusion import noise
from keras_diffusion.errors import is_integer, shown

MAX_IMAGES = 256  # that go through the network at once; with guidance twice as many
MAX_NOISE_BYTES = 2**28  # that are drawn ahead


@dataclass(frozen=True, eq=False)
class Request:
    """Images to draw. `make` makes one; everything that has a batch axis has the same N.

    Args:
        labels: int64 [N].
        image_shape: (H, W, C).
        keys: uint32 [2, N], of the noise.
        to_keys, fraction: uint32 [2, N] and float64 [N]: the noise is that share of the way to the other keys' noise.
        again_keys: uint32 [2, N], of the noise of a second draw.
        scale: float32 [N], guidance scale; 1, off, for images of no class.
        image: float32 [N, H, W, C] in [0, 1], or None: what to start from, and what is kept.
        keep: bool [N, H, W, C], or None: pixels that stay as in `image`.
    """

    labels: np.ndarray
    image_shape: tuple
    keys: np.ndarray
    to_keys: np.ndarray
    fraction: np.ndarray
    again_keys: np.ndarray
    scale: np.ndarray
    image: np.ndarray | None = None
    keep: np.ndarray | None = None

    def __len__(self):
        return self.labels.size

    def part(self, chosen):
        """Some of the images, by a slice or indices."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                values[name] = value[..., chosen] if name.endswith("keys") else value[chosen]
        return Request(**values)

    def again(self, chosen):
        """Second draws of some of the images, by indices."""
        part = self.part(chosen)
        return replace(part, keys=part.again_keys, to_keys=part.again_keys)

    def chunks(self, plan, *, rows=None):
        """Slices that bound the memory, one after the other, where so many rows' noise is held at once; None: all."""
        held = len(plan) if rows is None else rows
        draws = 1 + (held if plan.is_stochastic else 0)
        most = MAX_NOISE_BYTES // (4 * draws * int(np.prod(self.image_shape)))
        size = min(max(1, most), MAX_IMAGES)
        return [slice(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def noise(self, draw):
        """Standard normal numbers, float32 [N, H, W, C]: draw 0 is the start's, draw i + 1 row i's."""
        first = noise.normal(tuple(self.keys), draw=draw, shape=self.image_shape)
        if not self.fraction.any():
            return first
        second = noise.normal(tuple(self.to_keys), draw=draw, shape=self.image_shape)
        # On the arc between two independent draws, every point is as normal as they are.
        angle = (self.fraction * (np.pi / 2))[:, None, None, None]
        return (np.cos(angle) * first + np.sin(angle) * second).astype(np.float32)

    def start(self, plan):
        """The state before the first row: noise; the noised image where the rows begin below T, and in kept pixels.

        Raises:
            ValueError: where the rows begin below T and there is no image.
        """
        eps, whole = self.noise(0), plan.t[0] == plan.num_train_steps
        if self.image is None:
            if not whole:
                raise ValueError("strength: expected start_from as well, got none")
            return eps
        noised = (plan.alpha[0] * self.image + plan.sigma[0] * eps).astype(np.float32)
        if not whole:
            return noised
        return eps if self.keep is None else np.where(self.keep, noised, eps)

    def row_noise(self, plan, rows):
        """The noise of some rows: float32 [R, N, H, W, C]; zeros [R, 1, 1, 1, 1], which broadcast, where none adds any."""
        used = [i for i in rows if plan.c[i]]
        if not used:
            return np.zeros((len(rows), 1, 1, 1, 1), np.float32)
        drawn = np.zeros((len(rows), len(self), *self.image_shape), np.float32)
        for i in used:
            drawn[i - rows[0]] = self.noise(i + 1)
        return drawn


def make(
    labels,
    *,
    image_shape,
    num_classes,
    guidance_scale=1.0,
    seed=0,
    indices=None,
    to_seed=None,
    fraction=None,
    start_from=None,
    keep=None,
):
    """A checked `Request`.

    Args:
        labels: int [N] in 0..num_classes (num_classes: no class).
        image_shape: (H, W, C).
        num_classes: K; 0 without classes.
        guidance_scale: a number, or one for each image [N]; images of no class have nothing to guide.
        seed: int in [0, 2^63).
        indices: int [N], each image's number among those of its label; by default counted from 0.
        to_seed: another seed. The images of a label go in equal steps from what `seed` draws as its first to what
            `to_seed` draws as its first.
        fraction: float [N] in [0, 1], in place of the equal steps.
        start_from: float [H, W, C] or [N, H, W, C] in [0, 1], or None.
        keep: bool [H, W], [H, W, C or 1] or [N, H, W, C or 1], or None: pixels that stay as in `start_from`.

    Raises:
        ValueError: where an argument is out of range or of another shape.
    """
    labels = check_labels(labels, num_classes)
    shape = (labels.size, *image_shape)
    if indices is None:
        indices = noise.occurrence(labels) if to_seed is None else np.zeros_like(labels)
    keys = np.stack(noise.image_keys(seed, labels, indices))
    again_keys = np.stack(noise.image_keys(noise.again(seed), labels, indices))
    to_keys = keys if to_seed is None else np.stack(noise.image_keys(to_seed, labels, indices))
    return Request(
        labels=labels,
        image_shape=tuple(image_shape),
        keys=keys,
        to_keys=to_keys,
        fraction=_fractions(labels, to_seed, fraction),
        again_keys=again_keys,
        scale=check_scales(guidance_scale, labels, num_classes),
        image=None if start_from is None else _image(start_from, shape),
        keep=None if keep is None else _keep(keep, start_from, shape),
    )


def check_labels(labels, num_classes):
    """Labels as int64 [N].

    Args:
        labels: sequence of integers in 0..num_classes; num_classes, the null label, means no class.
        num_classes: K; 0 for a network without classes, whose only label is 0.

    Raises:
        ValueError: where a label is no integer or out of range, or there is none.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels: expected a list of at least one integer, got shape {labels.shape} of {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() > num_classes:
        wrong = labels[(labels < 0) | (labels > num_classes)][0]
        raise ValueError(
            f"labels: expected 0..{num_classes} ({num_classes}: no class), got {wrong}"
        )
    return labels.astype(np.int64)


def check_scales(scale, labels, num_classes):
    """The guidance scale of each image: float32 [N].

    Raises:
        ValueError: where it isn't a number, or one for each, that float32 holds.
    """
    count = labels.size
    given, scale = scale, np.asarray(scale)
    numbers = scale.shape in ((), (count,)) and scale.dtype.kind in "iuf"
    if not numbers or not (np.abs(scale) <= np.finfo(np.float32).max).all():
        raise ValueError(
            f"guidance_scale: expected a number or {count} of them, got {shown(given)}"
        )
    # Without a class both branches are the same: off, or the second would be computed for nothing.
    return np.where(labels == num_classes, 1, scale).astype(np.float32)


def _fractions(labels, to_seed, fraction):
    if to_seed is None:
        if fraction is not None:
            raise ValueError("fraction: expected to_seed as well, got none")
        return np.zeros(labels.size)
    if fraction is None:
        place = noise.occurrence(labels)
        _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return place / np.maximum(counts[which] - 1, 1)
    fraction = np.asarray(fraction, dtype=np.float64)
    if fraction.shape != labels.shape or not ((fraction >= 0) & (fraction <= 1)).all():
        raise ValueError(
            f"fraction: expected {labels.size} numbers in [0, 1], got {fraction.tolist()}"
        )
    return fraction


def _image(image, shape):
    image = np.asarray(image)
    wanted = f"floats in [0, 1] of shape {shape[1:]} or {shape}"
    if image.shape not in (shape[1:], shape) or image.dtype.kind != "f":
        raise ValueError(f"start_from: expected {wanted}, got {image.dtype} {image.shape}")
    if not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"start_from: expected {wanted}, got {image.min()}..{image.max()}")
    return np.broadcast_to(image.astype(np.float32), shape)


def _keep(keep, start_from, shape):
    if start_from is None:
        raise ValueError("keep: expected start_from as well, got none")
    keep = np.asarray(keep)
    keep = keep[..., None] if keep.ndim == 2 else keep
    fits = keep.ndim in (3, 4) and keep.shape[-3:] in (shape[1:], (*shape[1:3], 1))
    if keep.dtype != bool or not fits or keep.shape[:-3] not in ((), shape[:1]):
        raise ValueError(
            f"keep: expected bools of shape {shape[1:3]}, {shape[1:]} or {shape}, got {keep.dtype} {keep.shape}"
        )
    return np.broadcast_to(keep, shape)


def labels_of(labels, num_images, num_classes):
    """The labels that were given, or as many of no class as images were asked for in their place."""
    if (labels is None) == (num_images is None):
        raise ValueError("sample: expected either labels or num_images")
    if labels is not None:
        return labels
    if not is_integer(num_images) or num_images < 1:
        raise ValueError(f"num_images: expected a positive integer, got {shown(num_images)}")
    return np.full(num_images, num_classes)


def numbers(labels, indices=None):
    """The number of each image among those of its label, int64 [N]: what is given, or counted from 0."""
    return noise.occurrence(labels) if indices is None else np.asarray(indices, np.int64)


def shard(count, k, n):
    """The k-th of n parts of `count` images, k from 1: slices that follow each other and differ by one image at most."""
    if not (is_integer(k) and is_integer(n) and 1 <= k <= n):
        raise ValueError(f"shard: expected (k, n) with 1 <= k <= n, got {shown((k, n))}")
    return slice(count * (k - 1) // n, count * k // n)
