"""What a .npy file says of its array before the first number: read, and held against the file's size, before memory is taken."""

from __future__ import annotations

import math
from typing import IO, NamedTuple

import numpy as np


class Header(NamedTuple):
    """What a .npy file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype


def of_npy(file: IO[bytes], size: int) -> Header:
    """The header of a .npy file.

    Args:
        file: open at its beginning; the header is read from it.
        size: bytes of the whole file.

    Raises:
        ValueError: where there is none, or it says of another number of bytes than there are. (Pickled objects, whose
            number isn't known, are let through: whoever reads them must refuse them.)
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    room, claimed = size - file.tell(), math.prod(shape) * dtype.itemsize
    if claimed != room and not dtype.hasobject:
        raise ValueError(f"{room} bytes of numbers, whose header says {claimed}")
    return Header(shape, dtype)
