"""Sampling with NumPy alone: schedule -> tableau -> one step, around a network that is any callable; exported files too."""

from keras_diffusion.sampling.loop import Estimate, sample
from keras_diffusion.sampling.onnx_model import load
from keras_diffusion.sampling.samplers import (
    SAMPLERS,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    heun,
    midpoint,
    plan,
)
from keras_diffusion.sampling.tableau import Row, Tableau, step
from keras_diffusion.sampling.times import SPACINGS, spaced_times

__all__ = [
    "SAMPLERS",
    "SPACINGS",
    "Estimate",
    "Row",
    "Tableau",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "heun",
    "load",
    "midpoint",
    "plan",
    "sample",
    "spaced_times",
    "step",
]
