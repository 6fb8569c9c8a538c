"""Files of images: a FILE.npz in Keras's layout, and gzipped IDX files."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import struct
import warnings
import zipfile

import numpy as np

from keras_diffusion import headers
from keras_diffusion.data.images import (
    DIGITS,
    KEYS,
    MAX_BYTES,
    DataError,
    ImageData,
    brief,
    check_layout,
    checked,
)

IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def read_npz(path: str) -> ImageData:
    """Reads a FILE.npz; what its headers show to be wrong is refused before a pixel is read."""
    if not os.path.isfile(path):  # a pipe would make us wait for ever
        what = "is not a file" if os.path.exists(path) else "doesn't exist"
        raise DataError(f"expected a .npz file, got {path!r}, which {what}")
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # NumPy's of an old header, Python's of what stands in it
            missing = [key for key in KEYS if f"{key}.npy" not in archive.namelist()]
            if missing:
                raise DataError(f"{path}: expected {', '.join(KEYS)}, got no {', '.join(missing)}")
            check_layout({key: _npy_header(archive, f"{key}.npy") for key in KEYS}, path)
            arrays = {}
            for key in KEYS:
                with archive.open(f"{key}.npy") as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize ...: damage shows in too many ways to list
        raise DataError(f"{path}: expected a whole .npz file, got {brief(error)}") from error
    name = os.path.basename(path)
    return checked(name, f"the file {name}", arrays, DIGITS, where=path)


def _npy_header(archive: zipfile.ZipFile, member: str) -> headers.Header:
    with archive.open(member) as file:
        return headers.of_npy(file, archive.getinfo(member).file_size)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """A gzipped IDX file of bytes: uint8 [N, H, W] from images-idx3, [N] from labels-idx1."""
    rank = 3 if "idx3" in path.name else 1
    try:
        with gzip.open(path) as file:
            magic, *shape = struct.unpack(f">{1 + rank}I", file.read(4 + 4 * rank))
            size = math.prod(shape)
            if magic != 0x800 + rank or size > MAX_BYTES:
                raise ValueError(f"magic number {magic:#x}, shape {shape}")
            values = file.read(size + 1)
        if len(values) != size:
            raise ValueError(f"{'more' if len(values) > size else 'fewer'} bytes than {shape}")
    except Exception as error:  # as for .npz
        raise DataError(
            f"{path}: expected a whole gzipped IDX file of {rank} dimensions, got {brief(error)}"
        ) from error
    return np.frombuffer(values, np.uint8).reshape(shape)
