"""Runs the programs quickly: one process loads what is slow to load, and each call is a fork of it.

TensorFlow and Keras aren't loaded before, so that one sees whether a call loads them.
"""

import os
import pathlib
import resource
import sys
import tempfile
from typing import NamedTuple

import forks

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = {
    "fit": "scripts/fit.py",
    "distill": "scripts/distill.py",
    "sample": "scripts/sample.py",
    "evaluate": "scripts/evaluate.py",
    "report": "scripts/report.py",
    "train_judge": "scripts/train_judge.py",
    "convert": "export/convert.py",
    "restore": "export/restore.py",
    "export": "export/sample.py",
}
MODULE = "keras_diffusion.sampling"  # the program that is no file
HEAVY = {"tensorflow", "keras"}
SECONDS = 60  # of processor time
MEMORY = 2**32  # bytes of addresses beyond those that are taken already
_SLOW = (
    *("numpy", "onnxruntime", "PIL.Image", "scipy.linalg", "sklearn", "matplotlib.pyplot"),
    *("rich.console", f"{MODULE}.__main__", "keras_diffusion.evaluation.evaluate"),
    *("keras_diffusion.evaluation.sweep", "keras_diffusion.report.page"),
)


class Outcome(NamedTuple):
    """What a program left: exit status, stdout and stderr, and which of `HEAVY` it loaded."""

    status: int
    out: str
    err: str
    loaded: list


class Programs(forks.Forks):
    """Calls programs in forks of one process; a context manager."""

    def __init__(self):
        super().__init__(*_SLOW, env=environment())

    def __call__(self, program, arguments, cwd):
        """The `Outcome` of a program, by its name in `FILES` or `MODULE`."""
        with tempfile.TemporaryDirectory() as folder:
            loaded = pathlib.Path(folder, "loaded")
            words = (loaded, *command(program, arguments)[1:])
            done = self.run(__file__, *words, cwd=cwd, env=environment())
            names = loaded.read_text().split() if loaded.exists() else []
        return Outcome(done.returncode, done.stdout, done.stderr, names)


def environment():
    """Variables for a program: ours, with this package found first and no settings of a user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "TFDS", "KERAS"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(program, arguments):
    """The command line that starts a program in a process of its own."""
    start = ["-m", program] if program == MODULE else [str(ROOT / FILES[program])]
    return [sys.executable, *start, *arguments]


def _main(loaded, *words):
    """Runs a program within bounds of time and memory, and notes what it has loaded."""
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        return forks.execute(words)
    finally:
        pathlib.Path(loaded).write_text(" ".join(sorted(HEAVY & set(sys.modules))))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
