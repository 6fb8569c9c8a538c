"""What each part of our own recipe buys: one part at a time is taken back, trained alike, and judged alike.

FOLDER/ablation.json has a row as soon as it is measured, so that an ablation that was stopped goes on.
"""

import json
import pathlib
import time
from dataclasses import replace

import keras

from keras_diffusion import building, course, pipeline, schedules, settings
from keras_diffusion.errors import UserError, is_number
from keras_diffusion.evaluation import measure, subjects
from keras_diffusion.files import read_json, replacing

FORMAT = 2
PART = "2.5"
_LINEAR = schedules.linear_schedule(300).to_config()
WAYS = {
    "10 steps": {"sampler": "ddpm", "num_steps": 10, "guidance_scale": 1.0},
    "5 guided": {
        "sampler": "ddpm",
        "num_steps": 5,
        "guidance_scale": 1.2,
        "guidance_interval": (0.4, 1.0),
    },
}
# What each line changes in our own recipe; "ema_decay" is of the model, the rest of `course.Recipe`.
VARIANTS = {
    "best": {},
    "course-network": {"conditioning": "add"},
    "linear-schedule": {"schedule": _LINEAR},
    "not-preconditioned": {"preconditioned": False},
    "not-preconditioned-min-snr": {"preconditioned": False, "min_snr": 5.0},
    "min-snr": {"min_snr": 5.0},
    "eps": {"prediction": "eps", "schedule": _LINEAR, "preconditioned": False},
    "not-stratified": {"stratified": False},
    "course-rate": {"learning_rate": 1e-3, "cosine": False},
    "not-averaged": {"ema_decay": None},
    "averaged-longer": {"ema_decay": 0.9998},
    "dropout-0.2": {"label_dropout": 0.2},
}
COURSE = "course"  # the course's own recipe, whole
NAMES = (*VARIANTS, COURSE)


def recipe_of(name):
    """A variant: (`course.Recipe`, decay of its averaged weights)."""
    row = course.recipe_of(PART)
    if name == COURSE:
        return row, settings.EMA_DECAY["course"]
    changes = dict(VARIANTS[name])
    decay = changes.pop("ema_decay", settings.EMA_DECAY["best"])
    return replace(course.best(row), **changes), decay


def ablate(names, judge, data, folder, *, width, epochs, count, seed=0, say=print):
    """Trains and judges every variant that isn't measured yet.

    Args:
        names: of `NAMES`.
        judge: `onnx_classifier.Classifier`.
        data: `data.ImageData`.
        folder: path; an earlier ablation of the same data, judge, size and seed there goes on.
        width, epochs: of each training.
        count: images that are drawn of each variant, as many of each class.
        seed: of the weights, every draw of training, and the images.
        say: function of a line.

    Returns:
        What ablation.json holds.

    Raises:
        UserError: where the folder has an ablation of something else.
    """
    folder = pathlib.Path(folder)
    record = {
        "format": FORMAT, "data": data.identity()["sha256"], "judge": judge.sha256, "width": width, "epochs": epochs,
        "count": count, "seed": seed, "precision": keras.config.dtype_policy().name, "rows": [],
    }  # fmt: skip
    record["rows"] = _earlier(folder, record)
    measure.check_count(count, judge.num_features)
    labels = subjects.labels_for(data, count)
    real = measure.references(judge, data, labels)
    record["floor"] = float(real.frechet_floor.mean())
    folder.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in record["rows"]}
    for name in names:
        if name in done:
            continue
        model, trained = _train(name, data, width=width, epochs=epochs, seed=seed)
        row = {"name": name, **trained, **_judge(model, name, judge, data, labels, real, seed)}
        record["rows"].append(row)
        done.add(name)
        say(describe(row))
        with replacing(folder / "ablation.json") as beside:
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _train(name, data, *, width, epochs, seed):
    """A variant's model, and what its training came to."""
    recipe, decay = recipe_of(name)
    keras.utils.set_random_seed(seed)
    steps = pipeline.steps_per_epoch(len(data.x_train), recipe.batch_size)
    model = building.model(
        recipe, data, width=width, ema_decay=decay, seed=seed, steps_per_epoch=steps, epochs=epochs
    )
    batches = pipeline.training_batches(
        data.x_train, data.y_train, batch_size=recipe.batch_size, seed=seed
    )
    began = time.monotonic()
    history = model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    return model, {"loss": history.history["loss"][-1], "seconds": time.monotonic() - began}


def _judge(model, name, judge, data, labels, real, seed):
    """Accuracy and distance of both ways to draw."""
    subject = subjects.of_model(model, name=name, class_names=data.class_names)
    return {
        way: measure.score(judge, subject.draw(labels, seed=seed, **asked), labels, real)
        for way, asked in WAYS.items()
    }


def describe(row):
    """A row in words."""
    ways = (
        f"{way} {row[way]['accuracy']:.1%} at {row[way]['over_floor']:.1f} times the floor"
        for way in WAYS
    )
    return f"{row['name']}: {', '.join(ways)}; {row['seconds']:.0f} s of training"


def _is_row(row):
    numbers = [row["loss"], row["seconds"], *(v for way in WAYS for v in row[way].values())]
    ways = all(set(row[way]) == {"accuracy", "frechet", "over_floor"} for way in WAYS)
    return row["name"] in NAMES and ways and all(map(is_number, numbers))


def _earlier(folder, identity):
    """The rows of an earlier ablation of the same."""
    path = folder / "ablation.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"--out: expected a new folder, or one with an ablation in it, got {folder}"
            )
        return []
    try:
        record = read_json(path)
        rows = record["rows"] if record["format"] == FORMAT else []
        if not all(map(_is_row, rows)):
            raise ValueError("rows")
        other = [name for name in identity if name != "rows" and record[name] != identity[name]]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: expected what ablate.py wrote, got something else") from None
    if other:
        raise UserError(
            f"--out: expected a new folder, or an ablation to go on with, got one of another {other[0]} in {folder}"
        )
    return rows
