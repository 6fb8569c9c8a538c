"""The sampling loop in NumPy, around any network that is a callable."""

import numpy as np

from keras_diffusion import noise as noises
from keras_diffusion.sampling import guidance, tableau


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


def draw_noise(plan, keys, image_shape):
    """All the noise of a run through a tableau: float32 (initial [N, H, W, C], steps [S, N, H, W, C]).

    A plan without noise gets steps of shape [S, 1, 1, 1, 1], zeros, which broadcast.
    """
    initial = noises.normal(keys, draw=0, shape=image_shape)
    if not plan.is_stochastic:
        return initial, np.zeros((len(plan), 1, 1, 1, 1), np.float32)
    steps = np.zeros((len(plan), *initial.shape), np.float32)
    for i in np.flatnonzero(plan.c):
        steps[i] = noises.normal(keys, draw=int(i) + 1, shape=image_shape)
    return initial, steps


def clip_unit(x):
    """Clips to [0, 1], the range of images."""
    return np.clip(x, 0.0, 1.0)


def sample(
    network, plan, labels, *, image_shape, num_classes, scale=1.0, seed=0, indices=None, clip=True
):
    """Draws images by a tableau.

    Args:
        network: callable (x float32 [N, H, W, C], t float32 [N] = t/T, label int32 [N]) -> out like x.
        plan: `Tableau`.
        labels: int [N] in 0..num_classes.
        image_shape: (H, W, C).
        num_classes: K, which is also the null label.
        scale: guidance scale.
        seed: int in [0, 2^63).
        indices: int [N], each image's number among those of its label; by default counted from 0.
        clip: whether every estimate of x0 is clipped to [0, 1].

    Returns:
        float32 [N, H, W, C] in [0, 1].
    """
    labels = check_labels(labels, num_classes)
    indices = noises.occurrence(labels) if indices is None else indices
    x, steps = draw_noise(plan, noises.image_keys(seed, labels, indices), image_shape)
    network = guidance.guided(
        network,
        scale=scale,
        null_label=num_classes,
        concat=lambda a, b: np.concatenate([a, b]),
        split=lambda out: np.split(out, 2),
    )
    limit = clip_unit if clip else lambda x: x
    x0, label = np.zeros_like(x), labels.astype(np.int32)
    for t, row, fresh in zip(plan.t, plan.rows.astype(np.float32), steps, strict=True):
        t = np.full(len(x), t / plan.num_train_steps, np.float32)
        x, x0 = tableau.step(x, x0, network(x, t, label), fresh, tableau.Row(*row), limit)
    return clip_unit(x)
