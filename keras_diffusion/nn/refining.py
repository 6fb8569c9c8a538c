"""A network behind a denoiser, a small one or its copy: it works over the image that the last call would end in."""

import functools
import zlib

import keras
import tensorflow as tf

from keras_diffusion import predictions, schedules
from keras_diffusion.nn import blocks
from keras_diffusion.nn.modulated import modulate
from keras_diffusion.nn.preconditioning import check_fits
from keras_diffusion.nn.tables import look_up

WIDTH = 24  # unless told otherwise
COPY = "copy"  # in place of a width: the network's own build
_SLACK = 5e-7  # of T: what float32 makes of t/T


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Estimates(keras.layers.Layer):
    """xt [N, H, W, C], t/T [N] and a network's output to what a refiner works on, float32 whatever the policy.

    Args:
        schedule: `Schedule`, or its `to_config()`.
        prediction: "eps", "x0", "v" or "flow".
        below: t, of 0..T, up to which the image is refined.

    Returns:
        (x0 [N, H, W, C] in [0, 1], eps [N, H, W, C], out [N, H, W, C], gain [N, 1, 1, 1]): the image and the noise that
        the output says xt is of, the output that says it of the image within [0, 1], and what a change of the image
        changes in the output. Above `below` the output is as it came, and the gain 0.
    """

    def __init__(self, schedule, *, prediction, below, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.schedule = schedules.from_config(schedule) if isinstance(schedule, dict) else schedule
        self.prediction, self.below = prediction, float(below)
        predictions.row(prediction, 1.0, 0.0)
        if not 0 < self.below <= self.schedule.num_train_steps:
            raise ValueError(
                f"below: expected a time in (0, {self.schedule.num_train_steps}], got {below}"
            )

    @property
    def upper(self):
        """`below`, and what float32 may make of it."""
        return self.below + _SLACK * self.schedule.num_train_steps

    def acts(self, t):
        """Which of the times t/T [N] are at most `below`: bool [N]."""
        return keras.ops.less_equal(t * self.schedule.num_train_steps, self.upper)

    def call(self, x, t, out):
        t = tf.clip_by_value(t, 0.0, 1.0)
        refines = self.acts(t)[:, None, None, None]
        t = t * self.schedule.num_train_steps
        alpha, sigma = (look_up(table, t) for table in (self.schedule.alpha, self.schedule.sigma))
        m, n = predictions.row(self.prediction, alpha, sigma)
        # out = m*x0 + n*eps and x = alpha*x0 + sigma*eps, solved for x0, eps and the change of out by x0 at this x.
        divide = tf.math.divide_no_nan
        determinant = alpha * n - sigma * m
        said = divide(n * x - sigma * out, determinant)
        eps = divide(alpha * out - m * x, determinant)
        gain = tf.where(refines, divide(-determinant, sigma), 0.0)
        x0 = tf.clip_by_value(said, 0.0, 1.0)
        return x0, eps, out + gain * (x0 - said), gain

    def compute_output_shape(self, x_shape, t_shape, out_shape):
        return out_shape, out_shape, out_shape, (out_shape[0], 1, 1, 1)

    def check_fits(self, schedule, prediction, data_std):
        """As `Precondition.check_fits`; any deviation fits."""
        check_fits("refined", self, schedule, prediction)

    def get_config(self):
        return {
            **super().get_config(),
            "schedule": self.schedule.to_config(),
            "prediction": self.prediction,
            "below": self.below,
        }


def with_refiner(
    network, schedule, *, prediction, below, width=WIDTH, num_classes=None, seed=0, name=None
):
    """A network and, behind it, another that changes the image that its output means, where t is at most `below`.

    Above it the output is the network's own, and so is, at the start, the image, kept in [0, 1], everywhere. The refiner is a copy of
    the network, which begins with its weights and whose image is taken in place of the network's, or a small one, whose last convolution is 0 at first. That sees the
    estimate of the image, that of the noise (what is left of chance: it may draw by it) and the class:

        x0, eps -two Conv-> W -two Conv-> 2W (1/2 of the sides) -two Conv-> 2W (1/4)
          -upsample, + , Conv-> 2W (1/2) -Conv-> W -upsample, + , Conv-> W -Conv-> change of x0

    In the small one there is no normalisation; GELU follows each convolution but those before a sum and the last, and the first at each size hears the
    class, as `modulated_unet`'s do. Whole pixels are its own at both ends: networks that saw them four at a time, as channels, left
    stipples in the images, which no classifier minded.

    Args:
        network: functional Keras model on a dict of `x`, `t` and, with classes, `label`, as `unet` builds it.
        schedule, prediction: those of the `DiffusionModel` that will have it.
        below: t, of 0..T, up to which the image is refined: a student's last time.
        width: W, or COPY, "copy".
        num_classes: K; None asks the network's `OneHot` layer. Not used where it has no `label`.
        seed: of a small refiner's first weights.
        name: of the model; None: the network's, and `refined_` before it.

    Returns:
        `keras.Model` with the same inputs and the same kind of output; the network itself is a layer of it, `estimates` and `refiner`
        are new ones.

    Raises:
        ValueError: where the network isn't told t, has a refiner, or an argument is out of its range.

    Reference: Balaji et al. 2022, "eDiff-I" (networks of their own for some of the times); Odena et al. 2016,
        "Deconvolution and Checkerboard Artifacts" (upsampling before convolving).
    """
    given = getattr(network, "input", None)
    given = given if isinstance(given, dict) else {}
    if not {"x", "t"} <= set(given):
        raise ValueError(
            f"network: expected a functional Keras model on a dict that has x and t, got {sorted(given) or network}"
        )
    if has_refiner(network):
        raise ValueError("network: expected one without a refiner, got one with it")
    if width != COPY:
        if isinstance(width, str):
            raise ValueError(f"width: expected an integer or {COPY}, got {width!r}")
        blocks.check(width, None, tuple(given["x"].shape[1:]))
    inputs = {
        key: keras.Input(value.shape[1:], name=key, dtype=value.dtype)
        for key, value in given.items()
    }
    estimates = Estimates(schedule, prediction=prediction, below=below, name="estimates")
    classes = blocks.count_classes(network) if num_classes is None else num_classes
    if "label" in given and not classes and width != COPY:
        raise ValueError(
            "num_classes: expected the number of classes of a network with labels, got none"
        )
    if width == COPY:
        refiner = _copy(network)
    else:
        refiner = _refiner(given, width, classes if "label" in given else 0, seed)
    out = _refined(estimates, refiner, inputs, network(inputs))
    return keras.Model(inputs, out, name=name or f"refined_{network.name}")


def train_all(network):
    """Makes a network trainable, and all that is in it."""
    network.trainable = True
    for layer in network.layers:
        layer.trainable = True
        if isinstance(layer, keras.Model):
            train_all(layer)


def has_refiner(network):
    """Whether a network is one of `with_refiner`."""
    return {"estimates", "refiner"} <= {layer.name for layer in network.layers}


def parts(network):
    """What a network of `with_refiner` is made of.

    Returns:
        (the network that it was made of, its `Estimates`, its refiner).
    """
    refiner = network.get_layer("refiner")
    (base,) = (
        layer for layer in network.layers if isinstance(layer, keras.Model) and layer is not refiner
    )
    return base, network.get_layer("estimates"), refiner


def acting(network, t):
    """What of a network decides its output at t, of 0..T, to be called as it is: where its refiner changes nothing, what it was
    made of, and where that is a copy, the copy."""
    if not has_refiner(network):
        return network
    base, estimates, _ = parts(network)
    return refined_alone(network) if t <= estimates.upper else base


def refined_alone(network):
    """What decides a network's output at all times at which its refiner acts, to be called as it is: of a copy that alone."""
    _, estimates, refiner = parts(network)
    if not _is_copy(refiner):
        return network
    return functools.partial(_said_by_copy, estimates, refiner)


def width_of(network):
    """What `with_refiner` was given as its width."""
    refiner = network.get_layer("refiner")
    return COPY if _is_copy(refiner) else refiner.get_layer("enter1").filters


def both(network, inputs):
    """What a network of `with_refiner` puts out in inference without its refiner, and where that acts: float32 [N, H, W, C] each.

    The second is that with a small refiner at all times; of a copy it is what the copy says, which needs nothing of the first.
    """
    base, estimates, refiner = parts(network)
    plain = tf.cast(base(inputs, training=False), tf.float32)
    if _is_copy(refiner):
        return plain, _said_by_copy(estimates, refiner, inputs, training=False)
    return plain, _refined(estimates, refiner, inputs, plain)


def refined_image(network, inputs, out=None):
    """The image [N, H, W, C] in [0, 1] that the output of a network's base means once it is refined, at a time where it is.

    A copy asks for no such output. What a sampler makes of the network's output then, but to rounding, which decides of a black pixel whether it has a gradient.
    """
    _, estimates, refiner = parts(network)
    if _is_copy(refiner):
        return estimates(inputs["x"], inputs["t"], refiner(inputs, training=False))[0]
    x0, eps, _, _ = estimates(inputs["x"], inputs["t"], out)
    change = refiner(_seen(x0, eps, inputs), training=False)
    return tf.clip_by_value(x0 + change, 0.0, 1.0)


def _refined(estimates, refiner, inputs, out):
    """The output [N, H, W, C] of a network for these inputs, once the image that it means is refined: float32."""
    x0, eps, said, gain = estimates(inputs["x"], inputs["t"], out)
    if _is_copy(refiner):
        due = keras.ops.reshape(estimates.acts(inputs["t"]), (-1, 1, 1, 1))
        return keras.ops.where(due, _said_by_copy(estimates, refiner, inputs), said)
    change = refiner(_seen(x0, eps, inputs))
    change = keras.layers.Multiply(dtype="float32", name="change")([gain, change])
    return keras.layers.Add(dtype="float32", name="refined_out")([said, change])


def _said_by_copy(estimates, refiner, inputs, training=None):
    """The output [N, H, W, C] that says the image, within [0, 1], that a copy's output says: float32."""
    return estimates(inputs["x"], inputs["t"], refiner(inputs, training=training))[2]


def _is_copy(refiner):
    return "x0" not in refiner.input


def _copy(network):
    """A network of the same build and weights, as a refiner."""
    made = blocks.copied(network)
    train_all(made)
    return keras.Model(made.input, made.output, name="refiner")


def _seen(x0, eps, inputs):
    """What a small refiner is called with."""
    return {"x0": x0, "eps": eps, **{k: v for k, v in inputs.items() if k == "label"}}


def _refiner(given, width, num_classes, seed):
    image_shape = given["x"].shape[1:]
    inputs = {name: keras.Input(image_shape, name=name) for name in ("x0", "eps")}
    e = None
    if num_classes:
        inputs["label"] = keras.Input((), name="label", dtype="int32")
        e = blocks.OneHot(num_classes, name="class_vector")(inputs["label"])

    def conv(h, channels, name, *, strides=1):
        begin = keras.initializers.GlorotUniform(seed=zlib.crc32(f"{name} {seed}".encode()))
        return keras.layers.Conv2D(
            channels, 3, strides=strides, padding="same", kernel_initializer=begin, name=name
        )(h)

    def block(h, channels, name, *, strides=1, told=True):
        h = conv(h, channels, name, strides=strides)
        h = modulate(h, e, name=f"{name}_e") if told and e is not None else h
        return keras.layers.Activation(blocks.gelu, name=f"{name}_gelu")(h)

    def raised(h, low, name):
        up = keras.layers.UpSampling2D(interpolation="bilinear", name=f"{name}_up")
        return keras.layers.Add(name=name)([h, up(low)])

    seen = keras.layers.Concatenate(name="seen")([inputs["x0"], inputs["eps"]])
    full = block(block(seen, width, "enter1"), width, "enter2", told=False)
    half = block(block(full, 2 * width, "half1", strides=2), 2 * width, "half2", told=False)
    low = block(block(half, 2 * width, "low1", strides=2), 2 * width, "low2", told=False)
    half = block(raised(half, low, "half"), 2 * width, "half3")
    full = block(raised(full, conv(half, width, "half4"), "full"), width, "leave")
    last = keras.layers.Conv2D(
        image_shape[-1], 3, padding="same", kernel_initializer="zeros", name="last"
    )
    out = keras.layers.Activation("linear", dtype="float32", name="change")(last(full))
    return keras.Model(inputs, out, name="refiner")
