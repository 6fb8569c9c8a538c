"""One batch on several devices, under a `tf.distribute` strategy: each replica has a part of it, and all draw, average and normalize as one.

Outside a strategy, or with one device, each function here is the plain thing, and adds nothing to the graph.
"""

import tensorflow as tf

from keras_diffusion.errors import UserError
from keras_diffusion.workers import is_of_workers
from keras_diffusion.workers import strategy as all_workers


def _context():
    """The context of one replica among several; None where there is but one."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def drawn(draw, count):
    """What is drawn for this replica's images: the whole batch's draws are the same on however many devices.

    Args:
        draw: callable, number of images n -> tensor [n, ...], a function of n and a key alone.
        count: int32 scalar, images of this replica.

    Returns:
        The rows of `draw(images of all replicas)` that are this replica's.
    """
    context = _context()
    if context is None:
        return draw(count)
    counts = context.all_gather(tf.reshape(count, [1]), axis=0)
    before = tf.range(tf.size(counts)) < context.replica_id_in_sync_group
    begin = tf.reduce_sum(tf.where(before, counts, 0))
    return draw(tf.reduce_sum(counts))[begin : begin + count]


def share(count):
    """How much of the batch this replica's `count` images are: float32, 1.0 with one device."""
    return (
        1.0
        if _context() is None
        else tf.cast(count, tf.float32) / total(tf.cast(count, tf.float32))
    )


def total(x):
    """The sum of a tensor over all replicas; gradients flow through it."""
    context = _context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def gathered(x):
    """All replicas' rows of a tensor [n, ...], in the replicas' order."""
    context = _context()
    return x if context is None else context.all_gather(x, axis=0)


def mean(x):
    """The mean of a tensor over all replicas: one number, to the bit, of what each has found by itself to rounding."""
    context = _context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.MEAN, x)


def several():
    """Whether this runs on one of several replicas."""
    return _context() is not None


def strategy(devices, *, xla="auto", workers=False):
    """The strategy that trains on several devices of this machine: GPUs, or, where there is none, logical CPUs; or on several machines.

    Args:
        devices: how many, or "all": every GPU.
        xla: as in `settings.XLA`; no step of several devices is compiled with it.
        workers: whether several machines train as one, as TF_CONFIG says.

    Returns:
        `tf.distribute.MirroredStrategy`; with one device the plain strategy; with workers that of them all.

    Raises:
        UserError: where there aren't so many.
    """
    if workers:
        if xla == "on":
            raise UserError("--xla: expected auto or off with --workers, got on")
        return all_workers()
    gpus = tf.config.list_logical_devices("GPU")
    there = gpus or tf.config.list_logical_devices("CPU")
    count = max(1, len(gpus)) if devices == "all" else devices
    if count > len(there):
        raise UserError(f"--devices: expected at most the {len(there)} that are here, got {count}")
    if count == 1:
        return tf.distribute.get_strategy()
    if xla == "on":
        raise UserError(f"--xla: expected auto or off with --devices {devices}, got on")
    tf.get_logger().setLevel("ERROR")  # it warns of each shape that a function is traced for
    return tf.distribute.MirroredStrategy([device.name for device in there[:count]])


def check_batches(strategy, num_images, batch_size):
    """Whether every batch has an image for each device.

    Raises:
        UserError: where one hasn't.
    """
    count = strategy.num_replicas_in_sync
    option = "--workers" if is_of_workers(strategy) else "--devices"
    for size in (batch_size, num_images % batch_size or batch_size):
        each = -(-size // count)  # TensorFlow's division: the last device has what is left
        if each * (count - 1) >= size:
            raise UserError(
                f"{option}: expected batches that leave an image to each of {count} devices, got one of {size} images; take another --batch-size"
            )
