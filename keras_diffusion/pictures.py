"""Reads the images that drawing can start from. PIL is loaded only for a picture."""

import importlib.util
import os
import pathlib
import warnings

import numpy as np

from keras_diffusion import headers
from keras_diffusion.errors import UserError

MAX_PIXELS = 2**24  # far more than these networks are for


def read(path, image_shape):
    """An image file as numbers.

    Args:
        path: .png: grey or colour as `image_shape` says; or .npy: floats in [0, 1], or bools as 0 and 1.
        image_shape: (H, W, C), C 1 or 3.

    Returns:
        float32 [H, W, C] in [0, 1], or [N, H, W, C] where a .npy holds several.

    Raises:
        UserError: where the file isn't such an image.
    """
    path, wanted = pathlib.Path(path), "x".join(map(str, image_shape))
    if path.suffix.lower() not in (".png", ".npy"):
        raise UserError(f"expected an image as .png or .npy, got {path.name!r}")
    if not os.path.isfile(path):
        got = "a folder" if os.path.isdir(path) else "none"
        raise UserError(f"{path}: expected a {path.suffix} that can be read, got {got}")
    if path.suffix.lower() == ".png" and importlib.util.find_spec("PIL") is None:
        raise UserError(
            f"{path}: expected Pillow to read a .png with, found none: pip install pillow, or give a .npy"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow's of a bomb, NumPy's of an old header
            read = _read_npy if path.suffix.lower() == ".npy" else _read_png
            image = read(path, image_shape)
    except Exception as error:  # damage shows in too many ways to list
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: expected a {path.suffix} that can be read, got: {reason[0]}"
        ) from None
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-3:] != tuple(image_shape) or image.ndim not in (3, 4):
        raise UserError(f"{path}: expected {wanted}, got {'x'.join(map(str, image.shape))}")
    if not ((image >= 0) & (image <= 1)).all():
        raise UserError(f"{path}: expected values in 0..1, got {image.min():g}..{image.max():g}")
    return image


def _read_png(path, image_shape):
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels")
        if image.mode[0] in "IF":
            raise ValueError("more than 8 bits a pixel; save it with 8")
        mode = "L" if image_shape[2] == 1 else "RGB"
        return np.asarray(image.convert(mode), np.float32) / 255.0


def _read_npy(path, image_shape):
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > 4 * MAX_PIXELS * 3:
            raise ValueError(f"{size} bytes")
        claimed = headers.of_npy(file, size)
        if claimed.dtype.kind not in "fb":
            raise ValueError(f"{claimed.dtype}; floats in 0..1 or bools are needed")
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    with np.errstate(over="ignore"):  # what is too large for float32 is said to be outside of 0..1
        return array.astype(np.float32)
