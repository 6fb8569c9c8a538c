"""Batches for training and testing, as tf.data: uint8 in memory, float32 in [0, 1] out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

THREADS = 2
PREFETCH = 8


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches hold `count` images, the last one perhaps a short one."""
    if count < 1 or batch_size < 1:
        raise ValueError(f"expected count and batch_size at least 1, got {count} and {batch_size}")
    return -(-count // batch_size)


def training_batches(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int, seed: int, start_step: int = 0
) -> tf.data.Dataset:
    """Endless batches, shuffled anew in each epoch.

    Batch number `step` depends on the data, `batch_size`, `seed` and `step` alone, not on the
    batches before it: a run that goes on from step k gets exactly what it would have got. An epoch
    has every image once; its last batch is short where `batch_size` doesn't divide their number.

    Args:
        images: uint8 [N, H, W, C], 0..255; held once, as they are.
        labels: integers [N].
        batch_size: B, at least 1.
        seed: 0 <= seed < 2**63.
        start_step: number of the first batch, at least 0.

    Returns:
        A dataset of (float32 [B, H, W, C] in [0, 1], int32 [B]).

    Raises:
        ValueError: an argument is out of range, or images and labels don't fit together.
    """
    count = _checked_count(images, labels)
    steps = steps_per_epoch(count, batch_size)
    if not 0 <= seed < 2**63:
        raise ValueError(f"expected 0 <= seed < 2**63, got {seed}")
    if start_step < 0:
        raise ValueError(f"expected a start_step of at least 0, got {start_step}")
    take = _gather(images, labels)
    first_epoch, first_batch = divmod(start_step, steps)

    def epoch_indices(epoch):
        order = _permutation(count, seed, epoch)
        begin = tf.where(epoch == first_epoch, tf.constant(first_batch, tf.int64), 0)
        batches = tf.data.Dataset.range(begin, steps)
        return batches.map(lambda k: order[k * batch_size : (k + 1) * batch_size])

    return _parallel(tf.data.Dataset.counter(first_epoch).flat_map(epoch_indices), take)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int
) -> tf.data.Dataset:
    """All images once, in order; the last batch may be a short one.

    Args:
        images: uint8 [N, H, W, C], 0..255.
        labels: integers [N].
        batch_size: B, at least 1.

    Returns:
        A dataset of (float32 [B, H, W, C] in [0, 1], int32 [B]).

    Raises:
        ValueError: batch_size is less than 1, or images and labels don't fit together.
    """
    count = _checked_count(images, labels)
    steps = steps_per_epoch(count, batch_size)
    take = _gather(images, labels)

    def batch(k):
        return take(tf.range(k * batch_size, tf.minimum((k + 1) * batch_size, count)))

    return _parallel(tf.data.Dataset.range(steps), batch)


def check_arrays(images: object, labels: object, num_classes: int) -> None:
    """Whether arrays that a model is to be trained on are in range; what is no NumPy array isn't looked at.

    Args:
        images: float [N, H, W, C], to be in [0, 1].
        labels: integers [N], to be in 0..K.
        num_classes: K, which as a label means no class; 0 without classes.

    Raises:
        ValueError: where they aren't.
    """
    _check_range("images", images, 0, 1, "divide by 255" if np.max(_numbers(images)) > 2 else "")
    if num_classes:
        _check_range("labels", labels, 0, num_classes, f"{num_classes} means no class")


def _numbers(values):
    """Of an array that has some, these; else a 0, which is in every range."""
    known = isinstance(values, np.ndarray) and values.size and values.dtype.kind in "iuf"
    return values if known else np.zeros(1)


def _check_range(name, values, low, high, advice):
    values = _numbers(values)
    least, most = values.min(), values.max()
    if not (
        low - 1e-3 <= least and most <= high + 1e-3
    ):  # NaN too; augmented images may be a little past it
        raise ValueError(
            f"{name}: expected {low}..{high}, got {least:g}..{most:g}{advice and '; '}{advice}"
        )


def _permutation(count: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """The order of an epoch, int32 [count].

    Sorting random numbers takes 6 ms for 60,000 images, once an epoch. index_shuffle needs no such
    pass, but isn't random enough: of a seed it uses 8 bits, so that epoch 256 repeats epoch 0, and
    the orders of two successive epochs have a correlation of 0.9.
    """
    # Far from the keys (seed, step) of training's own draws. With "philox" named, since the algorithm of choice depends on the device.
    keys = tf.random.stateless_uniform(
        [count],
        seed=tf.stack([tf.constant(seed, tf.int64), tf.int64.max - epoch]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
        alg="philox",
    )
    return tf.argsort(keys, stable=True)


def _gather(images: np.ndarray, labels: np.ndarray) -> Callable:
    """A function from indices [B] to a batch; it holds the data, in the host's memory."""
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels, tf.int32)

    def take(indices):
        return tf.cast(tf.gather(images, indices), tf.float32) / 255.0, tf.gather(labels, indices)

    return take


def _parallel(items: tf.data.Dataset, batch: Callable) -> tf.data.Dataset:
    """Batches made ahead of the training step, in order.

    A batch is a fraction of a millisecond's work, so two threads feed any step. They are the
    dataset's own, since the training keeps the shared ones busy, and each stays on one core, since
    the other cores are the training's.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    return items.map(batch, num_parallel_calls=THREADS).prefetch(PREFETCH).with_options(options)


def _checked_count(images: np.ndarray, labels: np.ndarray) -> int:
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 1:
        got = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"expected images uint8 [N, H, W, C], N at least 1, got {got}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"expected labels integer [{len(images)}], got {got}")
    return len(images)
