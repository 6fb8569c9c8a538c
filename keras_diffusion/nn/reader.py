"""A classifier that reads noisy images."""

import keras

from keras_diffusion.nn import blocks
from keras_diffusion.nn.modulated import TimeFeatures, modulate


def reader(*, num_classes, image_shape=(28, 28, 1), width=24):
    """Builds a classifier of xt that is told t.

        x -Conv-> D -DownConv, Conv-> 2D -DownConv, Conv-> 3D -mean-> with e, Linear 6D, GELU, Linear -> K

    A vector e of the features of t gives each convolution a scale and a shift for each channel, as in `modulated_unet`.

    Args:
        num_classes: K.
        image_shape: (H, W, C), H and W divisible by 4.
        width: D.

    Returns:
        `keras.Model` on a dict of `x` float [N, H, W, C] and `t` float [N] (t/T) to logits float32 [N, K].

    Raises:
        ValueError: where an argument is out of its range.
    """
    blocks.check(width, num_classes, image_shape)
    x, t = keras.Input(image_shape, name="x"), keras.Input((), name="t", dtype="float32")
    e = TimeFeatures(name="time_features")(keras.layers.Reshape((1,), name="t_column")(t))
    e = keras.layers.Dense(4 * width, activation=blocks.gelu, name="embedding")(e)
    h = x
    for k, (make, channels) in enumerate(
        (
            (blocks.conv, width),
            (blocks.down_conv, 2 * width),
            (blocks.conv, 2 * width),
            (blocks.down_conv, 3 * width),
            (blocks.conv, 3 * width),
        )
    ):
        h = modulate(make(h, channels, name=f"conv{k}"), e, name=f"e{k}")
    h = keras.layers.GlobalAveragePooling2D(name="mean")(h)
    h = keras.layers.Concatenate(name="seen")([h, e])
    h = keras.layers.Dense(6 * width, activation=blocks.gelu, name="hidden")(h)
    logits = keras.layers.Dense(num_classes, name="last")(h)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return keras.Model({"x": x, "t": t}, logits, name="reader")
