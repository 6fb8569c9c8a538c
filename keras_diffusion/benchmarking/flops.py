"""Floating-point operations of a network, counted from its layers."""

import math

TRAINING = (
    3  # forward, and as much again for the gradient of the inputs and for that of the weights
)


def forward(network):
    """Operations (a multiplication and an addition are two) of one image through a network's convolutions and dense layers.

    What is done to each number alone (BatchNorm, GELU, sums) isn't counted: it is no matrix product.

    Args:
        network: functional Keras model of known image shape, other such models inside it allowed.
    """
    return sum(_COUNTS.get(type(layer).__name__, _inside)(layer) for layer in network.layers)


def _inside(layer):
    return forward(layer) if getattr(layer, "layers", None) else 0


def _convolution(layer):
    height, width = layer.output.shape[1:3]
    return 2 * height * width * math.prod(layer.kernel.shape)


def _transposed(layer):
    height, width = layer.input.shape[1:3]
    return 2 * height * width * math.prod(layer.kernel.shape)


def _dense(layer):
    return 2 * math.prod(layer.kernel.shape)


_COUNTS = {
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    "Spread": _transposed,
    "Dense": _dense,
}
