"""The networks, as functional Keras models."""

from keras_diffusion.nn.blocks import BatchNorm, OneHot, gelu
from keras_diffusion.nn.unet import unet

__all__ = ["BatchNorm", "OneHot", "gelu", "unet"]
