"""The SavedModel: one call of the network, and the whole sampler, as signatures with the inputs of the ONNX files."""

import numpy as np
import tensorflow as tf

from keras_diffusion import noise
from keras_diffusion.exporting.denoiser import function, signature
from keras_diffusion.sampling import portable

_OPS = portable.Ops(
    maths=noise.Maths(
        real=lambda a: tf.cast(a, tf.float64), log=tf.math.log, sqrt=tf.sqrt, sin=tf.sin
    ),
    count=lambda x: tf.shape(x)[0],
    any_other=lambda x, value: tf.cast(tf.reduce_any(x != value), tf.int32),
    part=lambda x, begin, end: x[begin:end],
    concat=lambda a, b: tf.concat([a, b], 0),
    fill=lambda value, count: tf.fill([count], value),
    column=lambda x: x[:, None],
    per_image=lambda x: x[:, None, None, None],
    images=lambda a, b, shape: tf.reshape(
        tf.reshape(tf.cast(tf.stack([a, b], -1), tf.float32), [tf.shape(a)[0], -1])[
            :, : int(np.prod(shape))
        ],
        [-1, *shape],
    ),
    clip=lambda x: tf.clip_by_value(x, 0.0, 1.0),
)


def denoiser(network, model):
    """One call of the network in inference form, as plain operations.

    Args:
        network: functional Keras model in float32, of the weights that sample.
        model: `DiffusionModel`, for what else it knows.

    Returns:
        (`tf.Module` that has the weights, `tf.function` of x, t, label, as many as there are, to {"out"}).
    """
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    return module, function(network, signature(model))


def write(folder, network, model, rows):
    """Writes a SavedModel with the signatures `denoise` (x, t, label -> out) and `sample` (as sampler.onnx -> images).

    Args:
        folder: path; must not exist.
        network: functional Keras model in float32, of the weights that sample.
        model: `DiffusionModel`, for what else it knows.
        rows: float32 [S, 9], the table that is used where none is given.
    """
    module, denoise = denoiser(network, model)
    null_label, shape = model.num_classes, model.image_shape

    def call(x, t, label):
        given = {"x": x, "t": t, "label": label}
        return denoise(*(given[name] for name in model.inputs_used))["out"]

    def sample(label, index, seed, guidance_scale, rows):
        rows = tf.concat([rows, default[: tf.where(tf.shape(rows)[0] == 0, len(default), 0)]], 0)
        keys = portable.image_keys(seed, tf.cast(label, tf.int64), index)
        scale = guidance_scale * tf.ones_like(label, tf.float32)

        def turn(i, x, x0):
            row = tf.unstack(rows[i], num=len(portable.COLUMNS))
            draw = tf.cast(i, tf.int64) + 1
            fresh = portable.normal(keys, draw=draw, shape=shape, ops=_OPS)
            x, x0 = portable.step(
                call, x, x0, label, scale, row, fresh, null_label=null_label, ops=_OPS
            )
            x.set_shape((None, *shape))
            x0.set_shape((None, *shape))
            return i + 1, x, x0

        x = portable.normal(keys, draw=tf.constant(0, tf.int64), shape=shape, ops=_OPS)
        count = tf.shape(rows)[0]
        _, x, _ = tf.while_loop(lambda i, *_: i < count, turn, (0, x, tf.zeros_like(x)))
        return {"images": _OPS.clip(x)}

    default = tf.constant(rows, tf.float32)
    inputs = [
        tf.TensorSpec((None,), tf.int32, name="label"),
        tf.TensorSpec((None,), tf.int64, name="index"),
        tf.TensorSpec((), tf.int64, name="seed"),
        tf.TensorSpec((None,), tf.float32, name="guidance_scale"),
        tf.TensorSpec((None, len(portable.COLUMNS)), tf.float32, name="rows"),
    ]
    sample = tf.function(sample, input_signature=inputs, autograph=False)
    tf.saved_model.save(module, folder, signatures={"denoise": denoise, "sample": sample})
