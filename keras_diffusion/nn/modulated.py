"""Our own UNet: the course's, with time and class heard in every block."""

import math

import keras
import tensorflow as tf

from keras_diffusion.nn import blocks

_FREQUENCIES = 6


@keras.saving.register_keras_serializable(package="keras_diffusion")
class TimeFeatures(keras.layers.Layer):
    """Times [N, 1] in [0, 1] to features float32 [N, 13]: t itself, and sin and cos of pi*t*2^k for k = -1..4.

    A network that is given t alone has to bend a line into a curve for every noise level; here the curves are there.
    In float32 whatever the policy: bfloat16 would make neighbouring times one.

    Reference: Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions".
    """

    def call(self, t):
        angle = t * tf.constant([math.pi * 2.0**k for k in range(-1, _FREQUENCIES - 1)])
        return tf.concat([t, tf.sin(angle), tf.cos(angle)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 1 + 2 * _FREQUENCIES)


def modulated_unet(*, width=32, num_classes=None, image_shape=(28, 28, 1), name=None):
    """Builds a UNet that is told time and class in every block.

        x -Conv-> D -DownBlock-> D -DownBlock-> 2D -Flatten, Unflatten-> -concat, two ConvBlocks-> 2D
          -UpBlock-> D -concat, UpBlock-> D -concat, ConvBlock-> D -Conv2d(3,1,1)-> out

    A vector e, of two layers of width 4D over the features of t and the one-hot class, gives each block a scale and a
    shift for each channel behind the normalisation of its first Conv2d(3,1,1): `gelu((1 + scale)*BN(conv(x)) + shift)`; so
    does what Unflatten puts out. At the start both are zero. The course's network hears time and class at two places of its decoder only.

    Args:
        width: D, the number of channels after the first convolution.
        num_classes: number of classes K, or None for a network without classes.
        image_shape: (H, W, C), H and W divisible by 4.
        name: name of the model.

    Returns:
        `keras.Model` with the inputs and the output of `unet`.

    Raises:
        ValueError: where an argument is out of its range.

    Example:
        >>> network = modulated_unet(width=32, num_classes=10)
        >>> out = network({"x": xt, "t": t / 300, "label": label})

    Reference: Perez et al. 2018, "FiLM"; Dhariwal & Nichol 2021, section 3 (the same for diffusion).
    """
    blocks.check(width, num_classes, image_shape)
    inputs = {
        "x": keras.Input(image_shape, name="x"),
        "t": keras.Input((), name="t", dtype="float32"),
    }
    if num_classes is not None:
        inputs["label"] = keras.Input((), name="label", dtype="int32")
    e = _embedding(inputs, 4 * width, num_classes)
    out = _body(inputs["x"], width, e)
    return keras.Model(inputs, out, name=name or "modulated_unet")


def _embedding(inputs, width, num_classes):
    """e: float [N, width]."""
    t = keras.layers.Reshape((1,), dtype="float32", name="t_column")(inputs["t"])
    e = TimeFeatures(dtype="float32", name="time_features")(t)
    if num_classes is not None:
        classes = blocks.OneHot(num_classes, dtype="float32", name="class_vector")(inputs["label"])
        e = keras.layers.Concatenate(dtype="float32", name="asked")([e, classes])
    for k, name in enumerate(("embedding1", "embedding")):
        # The first in float32 whatever the policy, as the course's time is.
        dtype = "float32" if k == 0 else None
        e = keras.layers.Dense(width, dtype=dtype, name=f"{name}_linear")(e)
        e = keras.layers.Activation(blocks.gelu, dtype=dtype, name=name)(e)
    return e


def _body(x, width, e):
    concat = keras.layers.Concatenate

    def block(h, channels, name):
        h = blocks.conv(
            h, channels, name=f"{name}_conv1", between=lambda h: modulate(h, e, name=f"{name}_e")
        )
        return blocks.conv(h, channels, name=f"{name}_conv2")

    enter = blocks.conv(x, width, name="enter")
    down1 = block(blocks.down_conv(enter, width, name="down1_down"), width, "down1")
    down2 = block(blocks.down_conv(down1, 2 * width, name="down2_down"), 2 * width, "down2")
    h = blocks.unflatten(blocks.flatten(down2, name="flatten"), down2.shape[1:3], name="unflatten")
    h = concat(name="skip2")([modulate(h, e, name="unflatten_e"), down2])
    h = block(h, 2 * width, "middle1")
    h = keras.layers.Add(name="middle")([h, block(h, 2 * width, "middle2")])
    h = block(blocks.up_conv(h, width, name="up1_up"), width, "up1")
    h = block(blocks.up_conv(concat(name="skip1")([h, down1]), width, name="up2_up"), width, "up2")
    h = block(concat(name="skip0")([h, enter]), width, "leave")
    return blocks.last_conv(h, x.shape[-1])


def modulate(h, e, *, name):
    """(1 + scale)*h + shift, both [N, 1, 1, C] and linear in e; at the start h itself."""
    channels = h.shape[-1]

    def linear(name):
        vector = keras.layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_linear")(e)
        return keras.layers.Reshape((1, 1, channels), name=name)(vector)

    return h * (1.0 + linear(f"{name}_scale")) + linear(f"{name}_shift")
