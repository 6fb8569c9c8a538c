"""ONNX files in onnxruntime: opened so that nothing but what stands in them is read, called, and asked what they say of themselves."""

import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_diffusion.errors import UserError, is_integer
from keras_diffusion.sampling import onnx_bytes

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MAX_BYTES = 2**31 - 1  # of a file: Protocol Buffers hold no more
PART = 8  # images, at most, that a thread of its own works on at once: more don't stay in its cache, fewer are many calls


def _opened(data, path, threads, provider):
    """onnxruntime's session of a file's bytes; arguments and errors as `Session`'s."""
    if threads is not None and not (is_integer(threads) and threads > 0):
        raise ValueError(f"threads: expected a positive integer, got {threads!r}")
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted: list = [PROVIDERS["cpu"]]
    if provider == "cuda" and PROVIDERS["cuda"] not in there:
        raise UserError(
            "provider: expected an onnxruntime with CUDA, got one without: install onnxruntime-gpu"
        )
    if provider != "cpu" and PROVIDERS["cuda"] in there:
        wanted.insert(0, (PROVIDERS["cuda"], _cuda_options(onnxruntime.__version__)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too; the rest is for developers
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        opened = onnxruntime.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # onnxruntime's own classes, which differ from version to version
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: expected a file that onnxruntime can load, got: {reason[:200]}"
        ) from None
    if provider == "cuda" and PROVIDERS["cuda"] not in opened.get_providers():
        raise UserError(
            "provider: expected CUDA to start, got the CPU: look at its libraries and the driver, or take cpu"
        )
    return opened


def _cuda_options(version):
    """float32 as the CPU has it: same seed, same digits; onnxruntime before 1.18 knows no such option."""
    major, minor = (int(number) for number in version.split(".")[:2])
    return {"use_tf32": "0"} if (major, minor) >= (1, 18) else {}


def read(path):
    """The bytes of a file that is there and whose weights all stand in it: what they name would be read wherever it is."""
    if not os.path.isfile(path):
        found = "a folder; name a file in it" if os.path.isdir(path) else "none"
        raise UserError(f"{path}: expected an ONNX file, found {found}")
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")
    data = path.read_bytes()
    try:
        external = onnx_bytes.has_external_data(data)
    except ValueError as error:
        raise UserError(
            f"{path}: expected a file that onnxruntime can load, got another ({error})"
        ) from None
    if external:
        raise UserError(
            f"{path}: expected a file that holds its weights itself, got one that names other files"
        )
    return data


def metadata(opened, key):
    """What a file says of itself under a key; None where it says nothing that is text."""
    try:
        return opened.get_modelmeta().custom_metadata_map.get(key)
    except UnicodeDecodeError:
        return None


class Session:
    """A file in onnxruntime, and how it is called.

    On a CPU a call on many images is cut into parts that several threads work on, each alone: that is a tenth faster than all threads
    at one operation after the other, takes less memory, and gives the same numbers. It is done from PART images a thread on.

    Args:
        path: `pathlib.Path`.
        threads: how many, from 1 on; None leaves it to onnxruntime, unless this process may use half of the CPUs or fewer, and has
            parts worked on by as many as it may use.
        provider: "cpu", "cuda", or "auto": CUDA where this onnxruntime has it.

    Attributes:
        whole: onnxruntime's session of all the threads, for calls that aren't cut.

    Raises:
        UserError: where there is no such file, onnxruntime can't read it, or the provider isn't there.
        ValueError: where `threads` is out of range.
    """

    def __init__(self, path, threads=None, provider="cpu"):
        data = read(path)
        self.whole = _opened(data, path, _allowed() if threads is None else threads, provider)
        on_cpu = self.whole.get_providers() == [PROVIDERS["cpu"]]
        self._threads = (threads or cores()) if on_cpu else 1
        self._path, self._data = path, data if self._threads > 1 else b""

    @functools.cached_property
    def _alone(self):
        """A session of one thread, and the threads that call it; for most programs there is never a need for them."""
        opened = _opened(self._data, self._path, 1, "cpu")
        return opened, ThreadPoolExecutor(self._threads)

    def call(self, outputs, given, *, of_all=()):
        """The arrays of these outputs.

        Args:
            outputs: their names; each has a row for each image.
            given: dict of arrays [N, ...], of N images; those named in `of_all` are for all images.

        Raises:
            UserError: where it can't be run, or puts out what is no number.
        """
        count = max(len(value) for name, value in given.items() if name not in of_all)
        if self._threads == 1 or count < PART * self._threads:
            return call(self.whole, outputs, given)
        opened, pool = self._alone

        def part(rows):
            some = {k: v if k in of_all else v[rows] for k, v in given.items()}
            return call(opened, outputs, some)

        parts = list(pool.map(part, _parts(count, self._threads)))
        return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _parts(count, threads):
    """Slices of `count` images: of PART at most, and equally many for each thread."""
    parts = threads * -(-count // (PART * threads))
    bounds = [count * k // parts for k in range(parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def _allowed():
    """Threads for onnxruntime, whose own choice, None, is one for each core of the machine, whatever this process may use.

    Two CPUs can be one core: of more than half of the CPUs it is left to choose.
    """
    usable = cores()
    return usable if 2 * usable <= (os.cpu_count() or 1) else None


def cores():
    """CPUs that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def call(opened, outputs, given):
    """One call of onnxruntime: the arrays of these outputs.

    Raises:
        UserError: where it can't be run, or puts out what is no number.
    """
    try:
        found = opened.run(outputs, given)
    except Exception as error:  # onnxruntime's own classes
        reason = " ".join(str(error).split())
        raise UserError(f"onnxruntime could not run the model: {reason[:200]}") from None
    if not all(np.isfinite(array).all() for array in found):
        raise UserError("model: expected finite numbers from it, got others; export it again")
    return found
