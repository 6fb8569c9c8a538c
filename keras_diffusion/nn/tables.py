"""A schedule's tables as tensors, and the times at which they are read."""

import tensorflow as tf


def spread(count, key):
    """Numbers in [0, 1), spread evenly, each uniform: float32 [count], a function of the key int64 [2]."""
    first = tf.random.stateless_uniform([], key, alg="philox")
    places = tf.range(count, dtype=tf.float32) / tf.cast(count, tf.float32)
    return tf.math.floormod(first + places, 1.0)


def look_up(table, t):
    """A schedule's table at times t [N], as [N, 1, 1, 1]: read at integers, linear between them.

    Args:
        table: float [T+1], alpha or sigma.
        t: int or float32 [N] in [0, T].
    """
    table = tf.constant(table, tf.float32)
    if t.dtype.is_integer:
        return tf.gather(table, t)[:, None, None, None]
    lower = tf.minimum(tf.cast(t, tf.int32), table.shape[0] - 2)
    low, high = tf.gather(table, lower), tf.gather(table, lower + 1)
    return (low + (high - low) * (t - tf.cast(lower, tf.float32)))[:, None, None, None]
