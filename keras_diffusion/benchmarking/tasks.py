"""The three measurements: which variants each has, and the record that it makes."""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime

from keras_diffusion.benchmarking import clock, comparing, fresh, machine, workers
from keras_diffusion.benchmarking.variants import (
    NUM_TRAIN_STEPS,
    OURS,
    PEER,
    SHIPPED,
    Variant,
)
from keras_diffusion.files import replacing

FORMAT = 1


def train(asked, how):
    """Steps of training of the course's class-conditioned DDPM.

    Args:
        asked: `precisions`, `ours` and `peer` (modes), `width`, `batch_size`; with `growth` `widths`, `batch_sizes`, `growth_rounds`.
        how: `comparing.Measuring`.

    Returns:
        The record, for benchmark.json.
    """
    begun = _begin("train", asked)
    precisions = asked.precisions or usual_precisions(how)
    chosen = {"task": "train", "width": asked.width, "batch_size": asked.batch_size}
    found = comparing.compare(_sides(asked, precisions, **chosen), how, products=precisions)
    record = _ended(begun, found)
    if asked.growth:
        best = _best(found)
        points = [
            (what, value, [_resized(variant, **{name: value}) for variant in best])
            for what, name, values in (
                ("batch size", "batch_size", asked.batch_sizes),
                ("width D", "width", asked.widths),
            )
            for value in values
        ]
        record["growth"] = comparing.growth(points, _quicker(how, asked))
    return record


def sample(asked, how):
    """Digits by the exported model's own default way, and by the course's loop in Keras and in PyTorch.

    Args:
        asked: as `train`, and `model`, `digits`, `measured_steps`; with `growth` `step_counts`, `image_counts` in place of
            its lists; `images`, to draw once more in a process of its own for its peak of memory.
        how: `comparing.Measuring`.
    """
    begun = _begin("sample", asked)
    precisions = asked.precisions or usual_precisions(how)
    shipped = Variant(
        SHIPPED, "draw", batch_size=asked.digits, model=asked.model, threads=how.threads
    )
    course = {"task": "draw", "width": asked.width, "batch_size": asked.digits}
    course |= {"num_steps": NUM_TRAIN_STEPS, "measured_steps": asked.measured_steps}
    found = comparing.compare(
        [shipped, *_sides(asked, precisions, **course)], how, products=precisions
    )
    record = _ended(begun, found)
    if asked.growth:
        loops = [_resized(variant, **course) for variant in _best(found) if variant.side == PEER]
        record["growth"] = comparing.growth(
            _drawing_points(asked, shipped, loops), _quicker(how, asked)
        )
    if asked.images:
        record["memory"] = [
            _drawn_once(_resized(shipped, batch_size=count), how)
            for count in (asked.digits, asked.images)
        ]
    return record


def _drawing_points(asked, shipped, loops):
    points = []
    for steps in asked.step_counts:
        measured = min(steps, asked.measured_steps)
        sized = [_resized(loop, num_steps=steps, measured_steps=measured) for loop in loops]
        points.append(("steps", steps, [_resized(shipped, num_steps=steps), *sized]))
    for count in asked.image_counts:
        sized = [_resized(variant, batch_size=count) for variant in (shipped, *loops)]
        points.append(("images", count, sized))
    return points


def _drawn_once(variant, how):
    """Seconds and peak memory of one batch in a process of its own."""
    how.say(f"memory of {variant.batch_size:,} images")
    worker = workers.Worker(variant, device=how.device, threads=how.threads)
    try:
        (seconds,) = worker.run(1)
        return {"images": variant.batch_size, "seconds": seconds, **worker.memory()}
    finally:
        worker.close()


def startup(asked, how, *, scripts):
    """How long fresh processes take to ten digits on the disk, to help, to a refusal, and to their first training step.

    Args:
        asked: `model`, `width`, `batch_size`, `peer` (modes; empty for no PyTorch).
        how: `comparing.Measuring`; of its steps one is done a round.
        scripts: folder that has fit.py.
    """
    begun, left_out = _begin("startup", asked), {}
    environment = workers.environment(how.device, how.threads)
    with tempfile.TemporaryDirectory() as folder:
        commands = fresh.commands(asked.model, folder=folder, scripts=scripts)
        looks = {name: fresh.looked_at(*one, environment) for name, one in commands.items()}
        actions = {
            name: lambda one=one: [fresh.seconds_of(*one, environment)]
            for name, one in commands.items()
        }
        for name, variant in _first_steps(asked).items():
            try:
                looks[name] = _first_step(name, variant, how)  # not timed: files come from the disk
            except workers.Failed as reason:
                if variant.side == OURS:
                    raise
                left_out[name] = str(reason).removeprefix(f"{name}: ")
                how.say(f"left out: {reason}")
                continue
            actions[name] = lambda one=(name, variant): [_first_step(*one, how)["seconds"]]
        times = clock.in_turn(actions, how.rounds)
    rows = [
        {"name": name, **looks[name], "seconds": clock.summary(times[name]), "rounds": times[name]}
        for name in actions
    ]
    steps = [row for row in rows if "side" in row]
    comparing.tell_of_devices(steps, how.say)
    compared = comparing.comparison(steps, times)[:1]  # all are of one precision
    return _ended(begun, {"processes": rows, "left_out": left_out, "comparison": compared})


def _first_steps(asked):
    """What trains, by what its row is called."""
    sizes = {"width": asked.width, "batch_size": asked.batch_size}
    found = {f"first training step, {OURS}": Variant(OURS, "train", mode="auto", **sizes)}
    for mode in asked.peer if has_torch() else ():
        variant = Variant(PEER, "train", mode=mode, **sizes)
        found[f"first training step, {PEER}, {mode}"] = variant
    return found


def _first_step(name, variant, how):
    """Seconds from no process to its first step done, and what it needed: dict.

    Raises:
        workers.Failed: where it can't be done here; with its name.
    """
    began = time.perf_counter()
    try:
        with contextlib.closing(
            workers.Worker(variant, device=how.device, threads=how.threads)
        ) as worker:
            worker.run(1)
            seconds = time.perf_counter() - began
            what = {"side": variant.side, "precision": variant.precision, **worker.says}
            return {**what, "seconds": seconds, **worker.memory()}
    except workers.Failed as reason:
        raise workers.Failed(f"{name}: {reason}") from None


def has_torch():
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def usual_precisions(how):
    """float32, and on a GPU what it has beside."""
    worker = workers.Worker(Variant(OURS, "product"), device=how.device)
    kind = worker.says["device"]["kind"]
    worker.close()
    return ["float32"] if kind == "cpu" else ["float32", "tf32", "mixed_bfloat16"]


def _sides(asked, precisions, **sizes):
    """The variants of both sides; PyTorch's where it is installed."""
    modes = [(OURS, mode) for mode in asked.ours]
    if has_torch():
        modes += [(PEER, mode) for mode in asked.peer]
    return [
        Variant(side, mode=mode, precision=precision, **sizes)
        for precision in precisions
        for side, mode in modes
    ]


def _best(found):
    """The variants of the last comparison of ours and PyTorch's; of ours alone without one."""
    names = [
        name
        for row in found["comparison"]
        if row["precision"] == "best" and row["ours"].startswith(OURS)
        for name in (row["ours"], row["peer"])
    ]
    if not names:
        names = [row["name"] for row in found["variants"] if row["side"] == OURS][:1]
    fields = Variant.__dataclass_fields__
    return [
        Variant(**{name: row[name] for name in fields})
        for row in found["variants"]
        if row["name"] in names
    ]


def _resized(variant, **sizes):
    return Variant(**{**variant.to_json(), **sizes})


def _quicker(how, asked):
    return comparing.Measuring(asked.growth_rounds, 1, how.device, how.threads, how.say)


def _begin(what, asked):
    """What a record says before anything is measured: with the load that there was already."""
    settings = {name: value for name, value in vars(asked).items() if name not in ("what", "out")}
    return {
        "format": FORMAT,
        "what": what,
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "settings": settings,
        "machine": machine.describe(),
    }


def _ended(begun, found):
    """The record, with what was found."""
    if "variants" in found:
        comparing.with_shares(found["variants"])
    return {**begun, "finished": datetime.now(UTC).isoformat(timespec="seconds"), **found}


def write(path, record):
    """Writes a record as JSON, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2) + "\n")
