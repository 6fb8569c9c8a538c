"""The course's UNet: plain, conditioned on time, or on time and class."""

import keras

from keras_diffusion.nn import blocks

CONDITIONINGS = ("add", "multiply", None)


def unet(*, width=64, num_classes=None, conditioning="add", image_shape=(28, 28, 1), name=None):
    """Builds a UNet of the course as a functional Keras model.

        x -ConvBlock-> D -DownBlock-> D -DownBlock-> 2D -Flatten-> -Unflatten-> 2D (1) -concat, UpBlock-> D (2)
          -concat, UpBlock-> D -concat, ConvBlock-> D -Conv2d(3,1,1)-> out

    Conditioning enters at (1) and (2): with a class as `c*h + t`, without one as `h + t` ("add") or `h * t` ("multiply").

    Args:
        width: D, the number of channels after the first block.
        num_classes: number of classes K, or None for a network without classes.
        conditioning: "add" (DDPM edition of the course), "multiply" (flow-matching edition), or None for the plain
            one-step denoiser, which knows neither time nor class.
        image_shape: (H, W, C), H and W divisible by 4.
        name: name of the model.

    Returns:
        `keras.Model` from a dict of `x` float [N, H, W, C], `t` float [N] in [0, 1] (t/T; unless `conditioning` is None)
        and `label` int [N] in 0..K (with `num_classes` only; K means no class) to `out` float32 [N, H, W, C].

    Raises:
        ValueError: where an argument is out of its range.

    Example:
        >>> network = unet(width=64, num_classes=10)
        >>> out = network({"x": xt, "t": t / 300, "label": label})

    Reference: UC Berkeley CS180/280A, project 5, part B.
    """
    blocks.check(width, num_classes, image_shape)
    _check_conditioning(conditioning, num_classes)
    inputs = {"x": keras.Input(image_shape, name="x")}
    times = classes = None
    if conditioning is not None:
        inputs["t"] = keras.Input((), name="t", dtype="float32")
        # In float32 whatever the policy: bfloat16 has 8 bits, and T = 300 times would meet.
        times = keras.layers.Reshape((1,), dtype="float32", name="t_column")(inputs["t"])
    if num_classes is not None:
        inputs["label"] = keras.Input((), name="label", dtype="int32")
        classes = blocks.OneHot(num_classes, name="class_vector")(inputs["label"])

    def condition(h, place):
        channels = h.shape[-1]
        if classes is not None:
            h = h * blocks.fc_block(classes, channels, name=f"c{place}")
        if times is None:
            return h
        t = blocks.fc_block(times, channels, name=f"t{place}", dtype="float32")
        return h * t if conditioning == "multiply" and classes is None else h + t

    out = _body(inputs["x"], width, condition)
    return keras.Model(inputs, out, name=name or "unet")


def _body(x, width, condition):
    concat = keras.layers.Concatenate
    skip = blocks.conv_block(x, width, name="enter")
    down1 = blocks.down_block(skip, width, name="down1")
    down2 = blocks.down_block(down1, 2 * width, name="down2")
    h = blocks.flatten(down2, name="flatten")
    h = condition(blocks.unflatten(h, down2.shape[1:3], name="unflatten"), 1)
    h = blocks.up_block(concat(name="skip2")([h, down2]), width, name="up1")
    h = condition(h, 2)
    h = blocks.up_block(concat(name="skip1")([h, down1]), width, name="up2")
    h = blocks.conv_block(concat(name="skip0")([h, skip]), width, name="leave")
    return blocks.last_conv(h, x.shape[-1])


def _check_conditioning(conditioning, num_classes):
    if conditioning not in CONDITIONINGS:
        raise ValueError(f"conditioning: expected one of {CONDITIONINGS}, got {conditioning!r}")
    if conditioning is None and num_classes is not None:
        raise ValueError("conditioning: a network with classes needs 'add' or 'multiply', got None")
