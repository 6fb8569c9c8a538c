"""Workers, seen from the program that asks them: started, told to run, closed."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from keras_diffusion.benchmarking import clock
from keras_diffusion.errors import UserError


class Failed(UserError):
    """A variant that can't be measured here; its message is the reason."""


class Worker:
    """A variant in a process of its own.

    Args:
        variant: `Variant`.
        device: "auto", "cpu" or "gpu".
        threads: how many threads it may use; None: as many as its libraries like.

    Raises:
        Failed: where the variant can't be built.
        UserError: where that is the user's doing.
    """

    def __init__(self, variant, *, device="auto", threads=None):
        self.variant = variant
        self.idle_cpu = 0.0
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "keras_diffusion.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            env=environment(device, threads),
        )
        try:
            self.says = self._ask(variant.to_json())
            if device == "gpu" and self.says["device"]["kind"] != "gpu":
                raise Failed("no GPU is seen")
        except BaseException:
            self.close()
            raise

    def run(self, count):
        """Seconds of each of `count` steps."""
        got = self._ask({"run": count})
        self.idle_cpu += got["idle_cpu"]
        return got["seconds"]

    def memory(self):
        """The peaks so far: dict of `memory` and `gpu_memory` (None without one), in bytes."""
        return self._ask({"memory": True})

    def close(self):
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._noise.close()

    def _ask(self, what):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"it ended ({self._last_words()})")
        got = json.loads(line)
        if "error" in got:
            if got["wrong_input"]:
                raise UserError(got["error"].split(": ", 1)[1])
            raise Failed(got["error"])
        return got

    def _last_words(self):
        status = self._process.wait()
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f"status {status}" + (f": {words[-1][:200]}" if words else "")


def environment(device, threads):
    """The variables that libraries read as they start."""
    given = {
        **os.environ,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }  # else the peak would be all there is
    if device == "cpu":
        given["CUDA_VISIBLE_DEVICES"] = "-1"
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            given[name] = str(threads)
    return given


# Steps, elsewhere 1: PyTorch's first steps of training take up to twice as long as its later ones.
_WARM_UP = {"train": 4}


@contextlib.contextmanager
def started(variants, *, say, **options):
    """Workers of all variants that can be built, warmed up; the others are named.

    Args:
        variants: list of `Variant`.
        say: function of a line.
        **options: of `Worker`.

    Yields:
        (list of `Worker`, dict of the names of those left out to reasons).
    """
    workers, left_out = [], {}
    built: list = [None] * len(variants)
    try:
        _build(variants, options, built)
        for variant, worker in zip(variants, built, strict=True):
            try:
                if isinstance(worker, UserError):
                    raise worker
                worker.run(_WARM_UP.get(variant.task, 1))
                workers.append(worker)
            except Failed as reason:
                left_out[variant.name] = str(reason)
                say(f"left out: {variant.name}: {reason}")
        yield workers, left_out
    finally:
        for worker in built:
            if isinstance(worker, Worker):
                worker.close()


def _build(variants, options, built):
    """Fills a list with the variants' workers, or in their place with why there are none; side by side, as none of it is timed."""

    def build(k):
        try:
            built[k] = Worker(variants[k], **options)
        except UserError as reason:
            built[k] = reason

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, range(len(variants))))


def measured(workers, *, rounds, steps):
    """Runs workers in turn.

    Args:
        workers: list of `Worker`.
        rounds: how many.
        steps: of each worker in each round.

    Returns:
        Dict of variants' names to lists over rounds of lists of seconds.
    """
    return clock.in_turn(
        {worker.variant.name: lambda w=worker: w.run(steps) for worker in workers}, rounds
    )
