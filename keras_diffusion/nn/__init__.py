"""The networks, as functional Keras models."""

from keras_diffusion.nn.blocks import BatchNorm, OneHot, gelu
from keras_diffusion.nn.modulated import TimeFeatures, modulated_unet
from keras_diffusion.nn.preconditioning import Precondition, precondition
from keras_diffusion.nn.refining import Estimates, with_refiner
from keras_diffusion.nn.unet import unet

__all__ = [
    "BatchNorm",
    "Estimates",
    "OneHot",
    "Precondition",
    "TimeFeatures",
    "gelu",
    "modulated_unet",
    "precondition",
    "unet",
    "with_refiner",
]
