"""Sampler by times by noise by guidance: each way to draw is measured once, and the best for each number of network calls kept.

FOLDER/sweep.csv has a row as soon as it is measured, so that a sweep that was stopped goes on; sweep.json says what the rows belong to and which are best.
"""

import csv
import itertools
import json
import os
import pathlib

from keras_diffusion import figures
from keras_diffusion.errors import UserError, is_integer
from keras_diffusion.evaluation import measure, subjects
from keras_diffusion.files import read_json, replacing
from keras_diffusion.spec import are_finite, is_finite

FORMAT = 3
BUDGETS = (5, 10, 20, 50, 100, 600)  # network calls an image
ACCURATE = 0.995  # of two ways to draw that are as accurate as this, the one with the smaller distance is the better
WAYS = (
    *("sampler", "num_steps", "spacing", "eta", "sharpen"),
    *("guidance_scale", "guidance_interval"),
)
COLUMNS = (*WAYS, "calls", "accuracy", "frechet", "over_floor")


# What may stand in a row of sweep.json.
_CHECKS = {
    "sampler": lambda value: isinstance(value, str),
    "num_steps": is_integer,
    "spacing": lambda value: value is None or isinstance(value, str) or are_finite(value),
    "eta": lambda value: value is None or is_finite(value),
    "sharpen": is_finite,
    "guidance_scale": is_finite,
    "guidance_interval": lambda value: value is None or are_finite(value) and len(value) == 2,
    "calls": is_integer,
    **dict.fromkeys(("accuracy", "frechet", "over_floor"), is_finite),
}


def grid(samplers, steps, spacings, scales, intervals, *, etas=(0.0,), sharpens=(0.0,), times=()):
    """Every way to draw: dicts of arguments of `sample`, those with fewer steps first.

    An interval says nothing where guidance is off, eta nothing for another sampler than ddim: such a way is there once.

    Args:
        samplers, scales, intervals: each of them with each of the others.
        steps, spacings: as many steps, so spaced: each of the one with each of the other.
        etas: of ddim.
        sharpens: of every sampler.
        times: lists of times, beside those that steps and spacings make.
    """
    own_times = [[float(time) for time in own] for own in times]
    schedules = [*itertools.product(steps, spacings), *((len(own), own) for own in own_times)]
    ways, seen = [], set()
    for (num_steps, spacing), sampler, eta, sharpen, scale, interval in itertools.product(
        sorted(schedules, key=lambda one: one[0]), samplers, etas, sharpens, scales, intervals
    ):
        way = {
            "sampler": sampler,
            "num_steps": num_steps,
            "spacing": spacing,
            "eta": float(eta) if sampler == "ddim" else None,
            "sharpen": float(sharpen),
            "guidance_scale": float(scale),
            "guidance_interval": None if scale == 1 else interval,
        }
        if _key(way) not in seen:
            seen.add(_key(way))
            ways.append(way)
    return ways


def sweep(subject, judge, data, folder, ways, *, count, seed=0, say=print):
    """Measures every way to draw that isn't measured yet; every image is drawn once.

    Args:
        subject: `subjects.Subject` with classes.
        judge: `onnx_classifier.Classifier`.
        data: `data.ImageData`.
        folder: path; an earlier sweep of the same model, judge, data, count and seed there goes on.
        ways: as from `grid`.
        count: images of each way, as many of each class.
        seed: of the images.
        say: function of a line.

    Returns:
        What sweep.json holds.

    Raises:
        UserError: where the folder has a sweep of something else, or a way can't be drawn.
    """
    if not subject.num_classes:
        raise UserError("--sweep: expected a model with classes, got one without")
    labels = subjects.labels_for(subject, count)
    measure.check_count(count, judge.num_features)
    for way in ways:
        subject.calls(**_drawn(way))  # all of them before the first hour
    folder = pathlib.Path(folder)
    identity = {
        "format": FORMAT, "weights": subject.weights, "judge": judge.sha256, "data": data.identity()["sha256"],
        "count": count, "seed": seed,
    }  # fmt: skip
    rows = _earlier(folder, identity)
    real = measure.references(judge, data, labels)
    floor = float(real.frechet_floor.mean())
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, identity, rows, floor)
    done = {_key(row) for row in rows}
    left = [way for way in ways if _key(way) not in done]
    for k, way in enumerate(left, 1):
        images = subject.draw(labels, seed=seed, redraw=0.0, **_drawn(way))
        row = {
            **way,
            "calls": subject.calls(**_drawn(way)),
            **measure.score(judge, images, labels, real),
        }
        rows.append(row)
        say(f"{k} of {len(left)}: {describe(row)}")
        _write(folder, identity, rows, floor)
    return _read(folder / "sweep.json")


def best(rows, calls):
    """The best way within a number of network calls: the smallest distance among the accurate, else the most accurate.

    Args:
        rows: dicts with `calls`, `accuracy`, `frechet`.
        calls: at most so many.

    Returns:
        A row, or None where none is that cheap.
    """
    cheap = [row for row in rows if row["calls"] <= calls]
    accurate = [row for row in cheap if row["accuracy"] >= ACCURATE]
    if accurate:
        return min(accurate, key=lambda row: row["frechet"])
    return max(cheap, key=lambda row: (row["accuracy"], -row["frechet"]), default=None)


def best_of_file(path, *, calls, weights):
    """The best way within a number of calls, from a sweep.json, as defaults of a model.

    Args:
        path: of the file, or its folder.
        calls: at most so many.
        weights: hash of the model's weights.

    Raises:
        UserError: where the file is no sweep, of another model, or has no way that is cheap enough.
    """
    path = pathlib.Path(path)
    record = _read(path / "sweep.json" if path.is_dir() else path)
    if record["weights"].split()[0] != weights:
        raise UserError(
            f"--best: expected a sweep of this model's weights, got another's in {path}"
        )
    row = best(record["rows"], calls)
    if row is None:
        raise UserError(
            f"--best: expected a way to draw in {calls} network calls, found none in {path}"
        )
    return _drawn(row)


def describe(row):
    """A row in words."""
    interval = row["guidance_interval"]
    between = f" in t/T {interval[0]:g} to {interval[1]:g}" if interval else ""
    spacing = row["spacing"] or "usual"
    if not isinstance(spacing, str):
        spacing = "at " + ", ".join(f"{time:g}" for time in spacing)
    sampler = f"{row['sampler']} with eta {row['eta']:g}" if row["eta"] else row["sampler"]
    edges = f", sharpened {row['sharpen']:g}" if row["sharpen"] else ""
    return (
        f"{sampler}, {row['num_steps']} steps ({spacing}){edges}, guidance {row['guidance_scale']:g}{between}: {row['calls']} calls,"
        f" accuracy {row['accuracy']:.2%}, Fréchet {row['frechet']:.2f}, {row['over_floor']:.2f} times the floor"
    )


def picture(path, record):
    """Draws distance against calls: a line a sampler, through its best way for each number of calls."""
    lines = {}
    for row in record["rows"]:
        lines.setdefault(row["sampler"], []).append(row)
    shown = {}
    for name, rows in lines.items():
        own = {
            calls: best([r for r in rows if r["calls"] == calls], calls)
            for calls in {r["calls"] for r in rows}
        }
        shown[name] = [
            (calls, row["frechet"], f"γ {row['guidance_scale']:g}, {row['accuracy']:.1%}")
            for calls, row in sorted(own.items())
        ]
    title = f"The best way for each number of calls, {record['count']:,} images"
    figures.sweep(path, shown, floor=record["floor"], title=title)


def _given(way):
    return {name: way[name] for name in WAYS if way.get(name) is not None}


def _drawn(way):
    """What is asked for a way: what it leaves open is the sampler's usual, not the model's own default."""
    usual = {"ddim": {"eta": 0.0}, "ddpm": {"variance": "beta_tilde"}}.get(way["sampler"], {})
    return {"guidance_interval": (0.0, 1.0), "sharpen": 0.0, **usual, **_given(way)}


def _key(row):
    return json.dumps([row[name] for name in WAYS])


def _earlier(folder, identity):
    if not (folder / "sweep.json").is_file():
        if any(folder.iterdir()) if folder.is_dir() else os.path.lexists(folder):
            raise UserError(
                f"--out: expected a new folder, or one with a sweep in it, got {folder}"
            )
        return []
    record = _read(folder / "sweep.json")
    for name, value in identity.items():
        if record.get(name) != value:
            raise UserError(
                f"--out: expected a new folder, or a sweep to go on with, got one of another {name} in {folder}"
            )
    return record["rows"]


def _read(path):
    """What a sweep.json holds.

    Raises:
        UserError: where there is none, or it can't be read.
    """
    record = read_json(path)
    found = record.get("format") if isinstance(record, dict) else None
    if is_integer(found) and found < FORMAT:
        raise UserError(
            f"{path}: expected a sweep of this version, got one of an earlier; sweep into a new folder"
        )
    if found != FORMAT or not _is_whole(record):
        raise UserError(f"{path}: expected a sweep.json that evaluate.py --sweep wrote, got none")
    return record


def _is_whole(record):
    """Whether a sweep.json has what ours have."""
    weights, rows = record.get("weights"), record.get("rows")
    return (
        isinstance(weights, str)
        and weights.strip() != ""
        and is_finite(record.get("floor"))
        and isinstance(rows, list)
        and all(isinstance(row, dict) and set(row) == set(COLUMNS) for row in rows)
        and all(check(row[name]) for row in rows for name, check in _CHECKS.items())
    )


def _write(folder, identity, rows, floor):
    record = {**identity, "floor": floor, "rows": rows}
    record["best"] = {str(calls): best(rows, calls) for calls in BUDGETS}
    with replacing(folder / "sweep.json") as beside:
        beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "sweep.csv") as beside, beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    if rows:
        picture(folder / "sweep.png", record)
