"""A variant as a process of its own: reads requests as lines of JSON, answers each with one.

    python -m keras_diffusion.benchmarking.worker

The first line is the variant; the answer says what it is. {"run": K} is answered with the seconds of K steps, {"memory": true} with peaks in
bytes. Between requests it waits on a read; what its libraries' threads burn meanwhile is in each answer as `idle_cpu`, in seconds.
"""

import importlib
import json
import os
import signal
import sys
import time

from keras_diffusion import cli
from keras_diffusion.benchmarking import machine
from keras_diffusion.benchmarking.variants import OURS, PEER, SHIPPED, Variant
from keras_diffusion.errors import UserError

_MODULES = {OURS: "ours", PEER: "peer", SHIPPED: "shipped"}


def serve(requests, answer):
    """Answers requests to their end.

    Args:
        requests: iterable of lines.
        answer: function of a dict.
    """
    requests = iter(requests)
    variant = Variant(**json.loads(next(requests)))
    if variant.side == OURS:
        cli.load_tensorflow()
    side = importlib.import_module(f"keras_diffusion.benchmarking.{_MODULES[variant.side]}")
    work = side.TASKS[variant.task](variant)
    answer({"device": side.device(), **work.says})
    before = time.process_time()
    for line in requests:
        idle, asked = time.process_time() - before, json.loads(line)
        if "run" in asked:
            answer({"seconds": work.run(asked["run"]), "idle_cpu": idle})
        else:
            answer({"memory": machine.peak_memory(), "gpu_memory": side.memory()})
        before = time.process_time()


def main():
    # Ctrl-C is for the program that started this one, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(what):
        print(json.dumps(what), file=answers)

    try:
        serve(sys.stdin, answer)
    except (
        Exception
    ) as error:  # whatever a library raises: this variant is left out, with its reason
        text = " ".join(str(error).split()) or "no reason"
        kind = type(error).__name__
        answer({"error": f"{kind}: {text}"[:300], "wrong_input": isinstance(error, UserError)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
