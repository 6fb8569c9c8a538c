"""What the numbers were measured on: processor, load, versions, and a process's peak memory."""

import os
import pathlib
import platform
import resource
import sys

from keras_diffusion import versions

_PACKAGES = ("numpy", "tensorflow", "keras", "torch", "onnxruntime")


def peak_memory():
    """The most memory that this process has had at once, in bytes."""
    try:
        # Not getrusage where there is this: a new process inherits its parent's peak there.
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def describe():
    """The machine and the versions, for benchmark.json; `load` is the work of others, in cores, before we began."""
    from keras_diffusion.sampling import onnx_session  # not in the fresh processes that we measure

    return {
        "processor": _processor(),
        "cores": onnx_session.cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0],
        "versions": versions.of(_PACKAGES),
    }


def _processor():
    """Its name, and of its instructions those that decide."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"name": platform.processor(), "instructions": []}
    fields = dict((part.strip() for part in line.split(":", 1)) for line in lines if ":" in line)
    flags = set(fields.get("flags", "").split())
    telling = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return {
        "name": fields.get("model name", platform.processor()),
        "instructions": [name for name in telling if name in flags],
    }
