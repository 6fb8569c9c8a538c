"""Sampling with NumPy alone: schedule -> tableau -> one step, around a network that is any callable."""

from keras_diffusion.sampling.guidance import guided
from keras_diffusion.sampling.loop import sample
from keras_diffusion.sampling.samplers import SAMPLERS, ddim, ddpm, euler, plan
from keras_diffusion.sampling.tableau import Row, Tableau, step

__all__ = [
    "SAMPLERS",
    "Row",
    "Tableau",
    "ddim",
    "ddpm",
    "euler",
    "guided",
    "plan",
    "sample",
    "step",
]
