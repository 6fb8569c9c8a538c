"""The course's blocks: convolution, batch normalisation, GELU.

Each function takes a Keras tensor and returns one; D, the channel count, is `width`.
Initial weights are PyTorch's defaults, uniform in +-1/sqrt(fan_in), because the course's figures were made with them.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_diffusion import replicas

_PACKAGE = "keras_diffusion"
_AS_OPERATIONS = contextvars.ContextVar("as_operations", default=False)
_WATCHING: contextvars.ContextVar[Callable | None] = contextvars.ContextVar(
    "watching", default=None
)


@contextlib.contextmanager
def as_operations():
    """Inside, `gelu` is traced as plain operations, which converters can read, and not as a function that XLA compiles."""
    token = _AS_OPERATIONS.set(True)
    try:
        yield
    finally:
        _AS_OPERATIONS.reset(token)


@contextlib.contextmanager
def watching(look):
    """Inside, `look(layer, x)` is called with what goes into each `BatchNorm`."""
    token = _WATCHING.set(look)
    try:
        yield
    finally:
        _WATCHING.reset(token)


def _phi(u):
    """Cumulative distribution of the standard normal. Not `erfc`: tf2onnx has no converter for that."""
    return 0.5 * (1.0 + tf.math.erf(u * math.sqrt(0.5)))


def _gelu_operations(x):
    """In the order of factors that the converters of onnxruntime and TensorFlow Lite know as GELU, one kernel there."""
    u = tf.cast(x, tf.float32)
    return tf.cast((0.5 * u) * (tf.math.erf(u * math.sqrt(0.5)) + 1.0), x.dtype)


# XLA turns each of these chains of pointwise operations into one pass over memory.
@tf.function(jit_compile=True)
def _gelu_forward(x):
    u = tf.cast(x, tf.float32)
    return tf.cast(u * _phi(u), x.dtype)


@tf.function(jit_compile=True)
def _gelu_backward(x, dy):
    u = tf.cast(x, tf.float32)
    density = tf.exp(-0.5 * u * u) * math.sqrt(0.5 / math.pi)
    return tf.cast(tf.cast(dy, tf.float32) * (_phi(u) + u * density), x.dtype)


@tf.custom_gradient
def _gelu(x):
    return _gelu_forward(x), lambda dy: _gelu_backward(x, dy)


@keras.saving.register_keras_serializable(package=_PACKAGE)
def gelu(x):
    """Exact GELU, x * Phi(x), as one compiled pass each way.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor like `x`.

    Reference: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    x = tf.convert_to_tensor(x)
    return _gelu_operations(x) if _AS_OPERATIONS.get() else _gelu(x)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BatchNorm(keras.layers.Layer):
    """Batch normalisation over all axes but the last, by TensorFlow's fused kernel, as PyTorch's `BatchNorm2d` does it.

    It also owns the bias of the convolution before it. Subtracting the batch mean cancels that bias while training, so
    it takes part only where it shows: in the moving mean, hence in inference. The weight exists (the parameter counts
    are the course's), its gradient is exactly zero, and no pass over memory is spent on it.

    Args:
        momentum: weight of the old moving statistics; 0.9 is PyTorch's 0.1.
        epsilon: added to the variance.
        bias_initializer: initial value of the convolution's bias.

    Reference: Ioffe & Szegedy 2015.
    """

    def __init__(self, *, momentum=0.9, epsilon=1e-5, bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        def add(name, initializer, trainable):
            return self.add_weight(
                shape=(input_shape[-1],),
                initializer=initializer,
                trainable=trainable,
                dtype="float32",
                autocast=False,  # the fused kernel wants float32 statistics beside half-precision data
                name=name,
            )

        self.bias = add("bias", self.bias_initializer, True)
        self.gamma = add("gamma", "ones", True)
        self.beta = add("beta", "zeros", True)
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_variance = add("moving_variance", "ones", False)

    def call(self, x, training=False):
        look = _WATCHING.get()
        if look is not None:
            look(self, x)
        gamma, bias = self.gamma.value, self.bias.value
        if not training:
            mean = self.moving_mean.value - bias
            return self._fused(x, gamma, self.beta.value, mean, self.moving_variance.value)[0]
        beta = self.beta.value + 0.0 * bias  # a zero gradient instead of none
        none = tf.zeros([0])
        if replicas.several():
            y, mean, variance = self._over_all(x, gamma, beta)
        else:
            y, mean, variance = self._fused(x, gamma, beta, none, none, is_training=True)
        self._move(self.moving_mean, tf.stop_gradient(mean) + bias)
        self._move(self.moving_variance, tf.stop_gradient(variance))
        return y

    def _fused(self, x, gamma, beta, mean, variance, is_training=False):
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )[:3]

    def _over_all(self, x, gamma, beta):
        """The same in operators, with the statistics of the whole batch, which several devices have in parts."""
        x32 = tf.cast(x, tf.float32)
        count = replicas.total(tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32))
        mean = replicas.total(tf.reduce_sum(x32, axis=(0, 1, 2))) / count
        variance = replicas.total(tf.reduce_sum(tf.square(x32 - mean), axis=(0, 1, 2))) / count
        y = (x32 - mean) * (tf.math.rsqrt(variance + self.epsilon) * gamma) + beta
        # The moving average is of the unbiased one, as the fused kernel has it.
        return tf.cast(y, x.dtype), mean, variance * count / tf.maximum(count - 1.0, 1.0)

    def _move(self, moving, batch):
        moving.assign(self.momentum * moving.value + (1.0 - self.momentum) * batch)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package=_PACKAGE)
class OneHot(keras.layers.Layer):
    """Class numbers to one-hot vectors: int [N] -> float32 [N, num_classes]. `num_classes` itself gives zeros: no class."""

    def __init__(self, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def call(self, label):
        return tf.one_hot(label, self.num_classes, dtype=self.compute_dtype)

    def compute_output_spec(self, label):
        return keras.KerasTensor((*label.shape, self.num_classes), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Spread(keras.layers.Conv2DTranspose):
    """A transposed convolution of one pixel to an image as large as the kernel, without a bias: a matrix product, and computed as one.

    [N, 1, 1, C] -> [N, H, W, filters]. Converters get the transposed convolution.
    """

    def call(self, inputs):
        if _AS_OPERATIONS.get():
            return super().call(inputs)
        height, width, filters, channels = self.kernel.shape
        rows = tf.reshape(self.kernel, (-1, channels))
        image = tf.matmul(tf.reshape(inputs, (-1, channels)), rows, transpose_b=True)
        return tf.reshape(image, (-1, height, width, filters))


def uniform(fan_in):
    """PyTorch's initial values."""
    bound = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound)


def _norm_gelu(x, fan_in, name, between=None):
    x = BatchNorm(bias_initializer=uniform(fan_in), name=f"{name}_bn")(x)
    if between is not None:
        x = between(x)
    return keras.layers.Activation(gelu, name=f"{name}_gelu")(x)


def conv(x, width, *, name, between=None):
    """Conv2d(3, 1, 1) + BN + GELU: [N, H, W, C] -> [N, H, W, width]; `between` is a function of what goes into GELU."""
    fan_in = 9 * x.shape[-1]
    layer = keras.layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer=uniform(fan_in), name=name
    )
    return _norm_gelu(layer(x), fan_in, name, between)


def down_conv(x, width, *, name):
    """Conv2d(3, 2, 1) + BN + GELU: [N, H, W, C] -> [N, H/2, W/2, width]."""
    fan_in = 9 * x.shape[-1]
    # "same" would pad an even side only at its end. Of a symmetric padding by one, the kernel never reaches the end.
    x = keras.layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"{name}_pad")(x)
    layer = keras.layers.Conv2D(
        width, 3, strides=2, use_bias=False, kernel_initializer=uniform(fan_in), name=name
    )
    return _norm_gelu(layer(x), fan_in, name)


def up_conv(x, width, *, name):
    """ConvTranspose2d(4, 2, 1) + BN + GELU: [N, H, W, C] -> [N, 2H, 2W, width]."""
    make = keras.layers.Conv2DTranspose
    return _transposed(make, x, width, kernel=4, strides=2, padding="same", name=name)


def flatten(x, *, name):
    """Average over the whole image, then GELU: [N, H, W, C] -> [N, 1, 1, C]."""
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    return keras.layers.Activation(gelu, name=f"{name}_gelu")(x)


def unflatten(x, size, *, name):
    """ConvTranspose2d(size, size, 0) + BN + GELU: [N, 1, 1, C] -> [N, *size, C]."""
    width = x.shape[-1]
    return _transposed(Spread, x, width, kernel=size, strides=size, padding="valid", name=name)


def _transposed(make, x, width, *, kernel, strides, padding, name):
    height, length = (kernel, kernel) if isinstance(kernel, int) else kernel
    fan_in = height * length * width  # PyTorch counts the outputs of a transposed convolution
    layer = make(
        width,
        kernel,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=uniform(fan_in),
        name=name,
    )
    return _norm_gelu(layer(x), fan_in, name)


def conv_block(x, width, *, name):
    """Conv, Conv."""
    return conv(conv(x, width, name=f"{name}_conv1"), width, name=f"{name}_conv2")


def down_block(x, width, *, name):
    """DownConv, ConvBlock: halves both sides."""
    return conv_block(down_conv(x, width, name=f"{name}_down"), width, name=name)


def up_block(x, width, *, name):
    """UpConv, ConvBlock: doubles both sides."""
    return conv_block(up_conv(x, width, name=f"{name}_up"), width, name=name)


def last_conv(x, channels):
    """Conv2d(3, 1, 1) in float32, called `out`: no GELU behind it, which can't go below -0.17: the loss would stay at 0.38."""
    fan_in = 9 * x.shape[-1]
    layer = keras.layers.Conv2D(
        channels,
        3,
        padding="same",
        kernel_initializer=uniform(fan_in),
        bias_initializer=uniform(fan_in),
        name="last",
    )
    return keras.layers.Activation("linear", dtype="float32", name="out")(layer(x))


def check(width, num_classes, image_shape):
    """Checks the arguments that every network has.

    Raises:
        ValueError: where one is out of its range.
    """
    if width < 1:
        raise ValueError(f"width: expected a positive integer, got {width}")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes: expected a positive integer or None, got {num_classes}")
    if len(image_shape) != 3 or image_shape[0] % 4 or image_shape[1] % 4 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape: expected (H, W, C) with H and W divisible by 4, got {tuple(image_shape)}"
        )


def fc_block(x, width, *, name, dtype=None):
    """Linear, GELU, Linear: [N, C] -> [N, 1, 1, width], ready to broadcast over an image.

    The first Linear and the GELU compute in `dtype`; None is the policy's.
    """

    def linear(x, name, dtype=None):
        fan_in = x.shape[-1]
        # Two initializers: one object would draw the same numbers for the kernel and for the bias.
        return keras.layers.Dense(
            width,
            kernel_initializer=uniform(fan_in),
            bias_initializer=uniform(fan_in),
            dtype=dtype,
            name=name,
        )(x)

    x = linear(x, f"{name}_linear1", dtype)
    x = keras.layers.Activation(gelu, dtype=dtype, name=f"{name}_gelu")(x)
    return keras.layers.Reshape((1, 1, width), name=name)(linear(x, f"{name}_linear2"))


def layers(network):
    """The layers of a network, those of networks inside it in place of these."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from layers(layer)
        else:
            yield layer


def copied(network, weights=None):
    """Another network of the same build, with the same weights or with these, a list of arrays."""
    made = keras.models.clone_model(network)
    made.set_weights(network.get_weights() if weights is None else weights)
    return made


def count_classes(network):
    """K of the network's `OneHot` layer, in networks inside it too; 0 without one."""
    return next((x.num_classes for x in layers(network) if isinstance(x, OneHot)), 0)
