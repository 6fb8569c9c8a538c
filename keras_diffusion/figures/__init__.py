"""Every picture, from plain arrays: grids of images, loss curves, animations, the U of a network.

Nothing here knows of a model. Images are placed pixel by pixel at an integer scale (never
resampled), the same input gives the same bytes, and a file is replaced whole or not at all.
"""

from keras_diffusion.figures.confusion import confusion
from keras_diffusion.figures.curves import loss_curve, loss_curves
from keras_diffusion.figures.growth import growth
from keras_diffusion.figures.pages import animation, image_grid
from keras_diffusion.figures.sweep import sweep
from keras_diffusion.figures.unet_diagram import Stage, architecture

__all__ = [
    "Stage",
    "animation",
    "architecture",
    "confusion",
    "growth",
    "image_grid",
    "loss_curve",
    "loss_curves",
    "sweep",
]
