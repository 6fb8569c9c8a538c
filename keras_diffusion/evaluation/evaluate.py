"""An evaluation: images are drawn, judged, and measured beside as many real ones."""

import dataclasses
import json
import pathlib
import time

import numpy as np

from keras_diffusion import cli, figures
from keras_diffusion.evaluation import doctor, intervals, measure, seeds, subjects, table
from keras_diffusion.evaluation.redrawn import Redrawn
from keras_diffusion.files import replacing, replacing_folder

FORMAT = 1
_PAIRS = 12  # of the figure of neighbours
_EPOCHS = 12  # of the classifiers that are trained on generated and on real images


def evaluate(
    subject,
    judge,
    data,
    folder,
    *,
    count,
    asked,
    seed=0,
    num_seeds=1,
    train_on_generated=False,
    say=print,
):
    """Measures a model and writes evaluation.json, confusion.png, neighbours.png and samples.png.

    Args:
        subject: `subjects.Subject`.
        judge: `onnx_classifier.Classifier`.
        data: `data.ImageData` to compare with.
        folder: path; made, or replaced whole if it holds an earlier evaluation.
        count: how many images, as many of each class.
        asked: arguments of `sample` that decide its tableau and guidance, and `redraw`.
        seed: of the images.
        num_seeds: of as many seeds, from `seed` on, class accuracy and distance are measured, each written when it is there; everything else of the first.
        train_on_generated: whether a classifier is trained on them too, which loads TensorFlow.
        say: function of a line.

    Returns:
        What evaluation.json holds.

    Raises:
        UserError: where the count is too small for a figure, or the images can't be drawn or compared.
    """
    asked = dict(asked)
    below = asked.pop("redraw", None)
    labels = subjects.labels_for(subject, count)
    drawn_as = labels if subject.num_classes else np.full(count, judge.num_classes)
    calls = subject.calls(**asked)  # before minutes of work: whether that can be drawn
    redraw = Redrawn.of(subject, judge, below)
    measure.check_count(count, judge.num_features)
    say("judging real images")
    real = measure.references(judge, data, subjects.real_labels(subject, count, data))
    say(
        f"drawing {count:,} images in {calls} network calls each{', some of them twice' if redraw.below else ''}"
    )
    began = time.perf_counter()
    images = subject.draw(labels, seed=seed, **redraw.arguments(), **asked)
    seconds = time.perf_counter() - began
    generated = measure.judged(judge, images, drawn_as)
    say("measuring")
    record = {
        "format": FORMAT,
        "subject": {"name": subject.name, "weights": subject.weights},
        "judge": {"sha256": judge.sha256, **judge.says},
        "data": data.identity(),
        "sampling": {
            **subject.asked(**asked),
            "seed": seed,
            **redraw.to_json(calls, count),
        },
        "seconds_of_drawing": round(seconds, 2),
        "generated": measure.measure(generated, real),
        "real": measure.measure(real.floor, real),
    }
    floors = real.frechet_floor
    record["frechet_floor"] = {"value": float(floors.mean()), "draws": floors.tolist()}
    record["frechet_over_floor"] = (
        record["generated"]["frechet_test"]["value"] / record["frechet_floor"]["value"]
    )
    found, index, distance = measure.memorisation(generated, real)
    record["memorisation"] = found
    if subject.num_classes and subject.network:
        scale = record["sampling"].get("guidance_scale", 1.0)
        record["conditioning"] = _examine(subject, generated, real, scale)
        for line in record["conditioning"]["warnings"]:
            say(line)
    if train_on_generated:
        record["train_on_generated"] = _train(generated, real, data, say)
    with replacing_folder(folder, made="evaluation.json") as beside:
        _write(record, beside / "evaluation.json")
        _draw(beside, subject, generated, real, record, index, distance)
    rows = [seeds.of_record(record)]
    for other in range(seed + 1, seed + num_seeds):
        say(f"drawing those of seed {other}")
        again = redraw.anew()
        rows.append(
            seeds.score(subject, judge, real, labels, seed=other, redraw=again, asked=asked)
        )
        record["seeds"] = {"rows": rows, **seeds.summary(rows)}
        with replacing(pathlib.Path(folder, "evaluation.json")) as beside:
            _write(record, beside)
    return record


def _write(record, path):
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _examine(subject, generated, real, scale):
    """What the guidance doctor finds, on five images of each class."""
    each = len(generated) // subject.num_classes
    chosen = (np.arange(subject.num_classes)[:, None] * each + np.arange(min(5, each))).ravel()
    some, labels = real.floor.images[chosen], generated.labels[chosen]
    found = doctor.examine(
        subject.network,
        subject.schedule,
        subject.prediction,
        some,
        labels,
        null_label=subject.num_classes,
    )
    variety = doctor.variety(generated.images[chosen], some, labels)
    found = dataclasses.replace(found, variety=variety)
    return {
        "gap": found.gap,
        "variety": found.variety,
        "warnings": doctor.warnings(found, scale=scale),
    }


def _train(generated, real, data, say):
    """Accuracy on the test set of classifiers trained on the generated and on as many real images."""
    cli.load_tensorflow()
    from keras_diffusion.evaluation import classifier

    found = {"epochs": _EPOCHS}
    test = data.x_test.astype(np.float32) / 255
    for name, some in (("generated", generated), ("real", real.floor)):
        say(f"training a classifier on {len(some):,} {name} images")
        order = np.random.default_rng(0).permutation(len(some))
        model = classifier.train(
            some.images[order], some.labels[order], num_classes=data.num_classes, epochs=_EPOCHS
        )
        hits = classifier.hits(model, test, data.y_test)
        found[name] = {"value": float(hits.mean()), "interval": intervals.proportion(hits)}
    return found


def _draw(folder, subject, generated, real, record, index, distance):
    names = list(subject.class_names) or ["no class"]
    matrix = record["generated"].get("confusion")
    if matrix:
        title = f"{len(generated):,} images, {table.calls(record['sampling'])}"
        figures.confusion(folder / "confusion.png", matrix, names, title=title)
    each = len(generated) // len(names)
    shown = generated.images.reshape(len(names), each, *generated.images.shape[1:])[:, :10]
    figures.image_grid(folder / "samples.png", shown, row_labels=names)
    nearest = np.argsort(distance)[:_PAIRS]
    usual = np.linspace(0, len(generated) - 1, _PAIRS).astype(int)
    rows = [
        some
        for chosen in (nearest, usual)
        for some in (generated.images[chosen], real.train.images[index[chosen]])
    ]
    figures.image_grid(
        folder / "neighbours.png",
        np.stack(rows),
        row_labels=["nearest of all", "in training", "others", "in training "],
        title="Generated images and their nearest training images",
    )
