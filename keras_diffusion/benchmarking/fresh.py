"""Fresh processes: how long they take to their end, what memory they need, what they load.

    python -m keras_diffusion.benchmarking.fresh FILE PROGRAM [ARGUMENT ...]

runs a program (a .py, or the name of a module) and leaves in FILE, as JSON, what it needed. Times are taken without this.
"""

import atexit
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

from keras_diffusion.benchmarking import machine
from keras_diffusion.errors import UserError


def commands(model, *, folder, scripts):
    """What is started: dict of a name to (arguments after `python`, the exit status that is expected, a file that it makes or None).

    Args:
        model: file for onnxruntime, or None for the package's.
        folder: where the digits go.
        scripts: folder that has fit.py.
    """
    fit, digits = os.path.join(scripts, "fit.py"), os.path.join(folder, "digits.png")
    drawing = ["-m", "keras_diffusion.sampling", *([model] if model else [])]
    return {
        "Python alone": (["-c", "pass"], 0, None),
        "fit.py --help": ([fit, "--help"], 0, None),
        "fit.py, a bad argument": ([fit, "--part", "9.9"], 2, None),
        "ten digits on the disk": ([*drawing, "--per-label", "1", "--out", digits], 0, digits),
    }


def seconds_of(arguments, status, made, environment):
    """Seconds from no process to its end.

    Raises:
        UserError: where it doesn't end as expected.
    """
    if made:
        pathlib.Path(made).unlink(missing_ok=True)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode != status or (made and not os.path.isfile(made)):
        words = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"{' '.join(arguments)}: expected it to end with status {status}, got {done.returncode} and: {words}"
        )
    return seconds


def looked_at(arguments, status, made, environment):
    """Runs it once more, under observation: dict of `memory` (peak, bytes) and `tensorflow` (whether it was loaded)."""
    if arguments[0] == "-c":
        return {"memory": None, "tensorflow": False}
    program = arguments[1:] if arguments[0] == "-m" else arguments
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        observed = ["-m", "keras_diffusion.benchmarking.fresh", report, *program]
        seconds_of(observed, status, made, environment)
        return json.loads(pathlib.Path(report).read_text())


def main():
    report, program = sys.argv[1:3]
    sys.argv = sys.argv[2:]

    def leave():
        found = {"memory": machine.peak_memory(), "tensorflow": "tensorflow" in sys.modules}
        pathlib.Path(report).write_text(json.dumps(found))

    atexit.register(leave)
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
