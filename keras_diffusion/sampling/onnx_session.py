"""ONNX files in onnxruntime: opened so that nothing but what stands in them is read, called, and asked what they say of themselves."""

import os

import numpy as np

from keras_diffusion.errors import UserError
from keras_diffusion.sampling import onnx_bytes

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MAX_BYTES = 2**31 - 1  # of a file: Protocol Buffers hold no more


def session(path, threads, provider):
    """onnxruntime's session of a file.

    Args:
        path: `pathlib.Path`.
        threads: number of threads; None leaves it to onnxruntime.
        provider: "cpu", "cuda", or "auto": CUDA where this onnxruntime has it.

    Raises:
        UserError: where there is no such file, onnxruntime can't read it, or the provider isn't there.
    """
    if not os.path.isfile(path):
        found = "a folder; name a file in it" if os.path.isdir(path) else "none"
        raise UserError(f"{path}: expected an ONNX file, found {found}")
    data = _read(path)
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


def _read(path):
    """The bytes of a file whose weights all stand in it: what they name would be read wherever it is."""
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
