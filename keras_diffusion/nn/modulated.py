"""Our own UNet: time and class heard in every block, most of the work where the image is small."""

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


def modulated_unet(*, width=24, num_classes=None, image_shape=(28, 28, 1), name=None):
    """Builds a UNet that is told time and class in every block.

        x -Conv-> D -DownConv-> 2D -h + ConvBlock-> 2D -DownConv-> 4D -h + ConvBlock-> 4D -h + FC(Flatten(h), e)-> 4D
          -h + ConvBlock-> 4D -UpConv-> 2D -concat, ConvBlock-> 2D -h + ConvBlock-> 2D -UpConv-> D
          -concat, ConvBlock-> D -Conv2d(3,1,1)-> out

    A vector e, of two layers of width 4D over the features of t and the one-hot class, gives each ConvBlock a scale and
    a shift for each channel behind the normalisation of its first Conv2d(3,1,1): `gelu((1 + scale)*BN(conv(x)) + shift)`.
    At the start both are zero. The course's network hears time and class at two places of its decoder only, has half as
    many channels at half and quarter size, and does most of its work at full size, where a convolution sees least.

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
        >>> network = modulated_unet(width=24, num_classes=10)
        >>> out = network({"x": xt, "t": t / 300, "label": label})

    Reference: Perez et al. 2018, "FiLM"; Ho et al. 2020, appendix B (residual blocks, more channels in smaller images);
    Dhariwal & Nichol 2021, section 3 (time and class as scale and shift).
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
    concat, add = keras.layers.Concatenate, keras.layers.Add

    def block(h, channels, name):
        h = blocks.conv(
            h, channels, name=f"{name}_conv1", between=lambda h: _modulate(h, e, name=f"{name}_e")
        )
        return blocks.conv(h, channels, name=f"{name}_conv2")

    def residual(h, name):
        return add(name=name)([h, block(h, h.shape[-1], name)])

    enter = blocks.conv(x, width, name="enter")
    block1 = residual(blocks.down_conv(enter, 2 * width, name="down1"), "block1")
    h = residual(blocks.down_conv(block1, 4 * width, name="down2"), "block2")
    h = residual(add(name="whole")([h, _whole(h, e)]), "block3")
    h = blocks.up_conv(h, 2 * width, name="up1")
    h = block(concat(name="skip1")([h, block1]), 2 * width, "block4")
    h = blocks.up_conv(residual(h, "block5"), width, name="up2")
    h = block(concat(name="skip0")([h, enter]), width, "block6")
    return blocks.last_conv(h, x.shape[-1])


def _whole(h, e):
    """What the whole image says, for each of its places: [N, H, W, C] -> [N, 1, 1, C]."""
    channels = h.shape[-1]
    mean = keras.layers.Reshape((channels,), name="flatten")(
        blocks.flatten(h, name="flatten_image")
    )
    asked = keras.layers.Concatenate(name="flatten_and_e")([mean, e])
    return blocks.fc_block(asked, channels, name="whole_fc")


def _modulate(h, e, *, name):
    """(1 + scale)*h + shift, both [N, 1, 1, C] and linear in e."""
    channels = h.shape[-1]

    def linear(name):
        vector = keras.layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_linear")(e)
        return keras.layers.Reshape((1, 1, channels), name=name)(vector)

    return h * (1.0 + linear(f"{name}_scale")) + linear(f"{name}_shift")
