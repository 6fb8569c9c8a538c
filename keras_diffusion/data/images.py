"""Images with labels, and the checks that all of them pass."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_diffusion.errors import UserError
from keras_diffusion.headers import Header

KEYS = ("x_train", "y_train", "x_test", "y_test")  # Keras's layout, and the order that is hashed
DIGITS = tuple("0123456789")
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
NUM_CLASSES = 10
MAX_BYTES = 2**31  # of one array: far more than these networks are for, and a machine survives it


class DataError(UserError):
    """The data can't be used. One line: what was expected, what came, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # texts of other libraries can have many lines


def brief(error: Exception | str) -> str:
    """The first line of an error's text, no longer than fits into a line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images for training and for testing. H and W are multiples of 4, C is 1 or 3.

    Attributes:
        name: "mnist", "fashion_mnist", "mnist-5k", or the name of a FILE.npz.
        source: where it came from, a short text without this machine's paths.
        x_train: uint8 [N, H, W, C], 0..255.
        y_train: int32 [N], 0..9.
        x_test: uint8 [M, H, W, C].
        y_test: int32 [M].
        class_names: one a class.
    """

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.x_train.shape[1:]

    def identity(self) -> dict[str, Any]:
        """What a run records of its data, as JSON.

        Returns:
            name, source, train_count, test_count, image_shape, and sha256 over the shapes and bytes
            of the four arrays: the same for the same images in the same order from any source.
        """
        digest = hashlib.sha256()
        for key in KEYS:
            array = getattr(self, key)
            digest.update(f"{key} {array.shape} {array.dtype}\n".encode())
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        return {
            "name": self.name,
            "source": self.source,
            "train_count": len(self.x_train),
            "test_count": len(self.x_test),
            "image_shape": list(self.image_shape),
            "sha256": digest.hexdigest(),
        }

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the training images' pixels, of all channels, in [0, 1]; to four digits."""
        # In parts: bincount makes eight bytes of each.
        parts = np.array_split(self.x_train.reshape(-1), -(-self.x_train.size // 2**24))
        counts = sum(np.bincount(part, minlength=256) for part in parts)
        value = np.arange(256) / 255
        mean = float(np.average(value, weights=counts))
        variance = float(np.average((value - mean) ** 2, weights=counts))
        return float(f"{mean:.4g}"), float(f"{math.sqrt(variance):.4g}")

    def limit(self, n: int) -> ImageData:
        """The same with the first `n` training images only; the test images are kept whole.

        Raises:
            DataError: n is less than 1.
        """
        if n < 1:
            raise DataError(f"expected a limit of at least 1 training image, got {n}")
        return dataclasses.replace(self, x_train=self.x_train[:n], y_train=self.y_train[:n])


def check_layout(arrays: Mapping[str, np.ndarray | Header], where: str) -> None:
    """Everything that shapes and dtypes can tell, of arrays or of their headers."""

    def expect(good: bool, key: str, expected: str, got: Any) -> None:
        if not good:
            raise DataError(f"{where}: expected {key} to be {expected}, got {got}")

    for x, y in (KEYS[:2], KEYS[2:]):
        (shape, dtype), labels = (arrays[x].shape, arrays[x].dtype), arrays[y]
        expect(dtype == np.uint8, x, "uint8, 0..255 (floats in [0, 1]: times 255)", dtype)
        ranks = len(shape) == 3 or len(shape) == 4 and shape[3] in (1, 3)
        expect(ranks, x, "[N, H, W] or [N, H, W, C] with C 1 or 3", list(shape))
        sides = min(shape) >= 1 and shape[1] % 4 == shape[2] % 4 == 0
        expect(sides, x, "[N, H, W, ...] with H and W multiples of 4, none 0", list(shape))
        expect(math.prod(shape) <= MAX_BYTES, x, f"{MAX_BYTES} bytes at most", math.prod(shape))
        expect(labels.dtype.kind in "iu", y, f"integers 0..{NUM_CLASSES - 1}", labels.dtype)
        column = labels.shape in (shape[:1], (shape[0], 1))
        expect(column, y, f"[{shape[0]}], one for each of {x}", list(labels.shape))
    train, test = (list(arrays[x].shape[1:]) for x in ("x_train", "x_test"))
    expect(train == test, "x_test", f"images of {train} as x_train", test)


def checked(
    name: str,
    source: str,
    arrays: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
    *,
    where: str | None = None,
) -> ImageData:
    """ImageData of arrays in Keras's layout; messages about them begin with `where` (source)."""
    where = where or f"{name} ({source})"
    check_layout(arrays, where)
    parts = {}
    for key in KEYS:
        array = np.ascontiguousarray(arrays[key])
        if key.startswith("x"):
            parts[key] = array if array.ndim == 4 else array[..., None]
            continue
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= NUM_CLASSES:
            expected = f"{key} to be integers 0..{NUM_CLASSES - 1}"
            raise DataError(f"{where}: expected {expected}, got {low}..{high}")
        parts[key] = array.reshape(-1).astype(np.int32)
    return ImageData(name=name, source=source, class_names=class_names, **parts)
