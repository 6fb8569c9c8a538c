"""Runs the programs quickly: one process loads what is slow to load, and each call is a fork of it.

A fork has its own stdout, stderr, working folder and exit status, as a process of its own would have; TensorFlow and
Keras aren't loaded before, so that one sees whether a call loads them.
"""

import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

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
_SAMPLING = ("numpy", "onnxruntime", "PIL.Image", f"{MODULE}.__main__")
_EVALUATION = (
    *("scipy.linalg", "sklearn", "matplotlib.pyplot", "rich.console"),
    *("keras_diffusion.evaluation.evaluate", "keras_diffusion.evaluation.sweep"),
)
# What is slow to load, by the program that is the first to need it.
_LOADED = {
    **dict.fromkeys((*FILES, MODULE), _SAMPLING),
    "evaluate": (*_SAMPLING, *_EVALUATION),
    "report": ("keras_diffusion.report.page",),
}


class Outcome(NamedTuple):
    """What a program left: exit status, stdout and stderr, and which of `HEAVY` it loaded."""

    status: int
    out: str
    err: str
    loaded: list


class Programs:
    """Calls programs in forks of one process; a context manager."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(30)

    def __call__(self, program, arguments, cwd):
        """The `Outcome` of a program, by its name in `FILES` or `MODULE`."""
        asked = {"program": program, "arguments": arguments, "cwd": str(cwd)}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Outcome(**json.loads(self._process.stdout.readline()))


def environment():
    """Variables for a program: ours, with this package found first and no settings of a user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "TFDS", "KERAS"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(program, arguments):
    """The command line that starts a program in a process of its own."""
    start = ["-m", program] if program == MODULE else [str(ROOT / FILES[program])]
    return [sys.executable, *start, *arguments]


def _serve():
    """Answers requests, a line each, until there are no more."""
    requests, answers = os.dup(0), os.dup(1)
    with open(requests) as lines, open(answers, "w") as replies:
        for line in lines:
            asked = json.loads(line)
            for name in _LOADED[asked["program"]]:
                importlib.import_module(name)
            gc.freeze()  # what a fork doesn't touch, it needn't copy
            print(json.dumps(_in_a_fork(**asked)), file=replies, flush=True)


def _in_a_fork(program, arguments, cwd):
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("out", "err", "loaded")]
        child = os.fork()
        if not child:
            _become(program, arguments, cwd, names)
        _, status = os.waitpid(child, 0)
        out, err, loaded = (
            pathlib.Path(name).read_text("utf-8", "surrogateescape") if os.path.exists(name) else ""
            for name in names
        )
    return {
        "status": os.waitstatus_to_exitcode(status),
        "out": out,
        "err": err,
        "loaded": loaded.split(),
    }


def _become(program, arguments, cwd, names):
    """Never returns: is the program, to its end."""
    import resource
    import runpy
    import traceback

    status = 1
    try:
        for number, name in ((1, names[0]), (2, names[1])):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(cwd)
        taken = (
            int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        )
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.argv[1:] = arguments
        try:
            if program == MODULE:
                sys.modules.pop(f"{MODULE}.__main__", None)  # runpy warns where it is there already
                runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
            else:
                sys.argv[0] = str(ROOT / FILES[program])
                runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        pathlib.Path(names[2]).write_text(" ".join(sorted(HEAVY & set(sys.modules))))
        os._exit(status)


if __name__ == "__main__":
    _serve()
