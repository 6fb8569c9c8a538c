"""Class accuracy and distance of several seeds: how much the figures of one of them say."""

import numpy as np

from keras_diffusion.evaluation import measure


def of_record(record):
    """The row of the seed that was measured in every respect, from an evaluation.

    Args:
        record: as evaluation.json.

    Returns:
        dict: `seed`, `accuracy` (where classes were asked for), `frechet` from the test set, `over_floor`, `network_calls_mean`.
    """
    found = record["generated"]
    accuracy = {"accuracy": found["accuracy"]["value"]} if "accuracy" in found else {}
    return {
        "seed": record["sampling"]["seed"],
        **accuracy,
        "frechet": found["frechet_test"]["value"],
        "over_floor": record["frechet_over_floor"],
        "network_calls_mean": record["sampling"]["network_calls_mean"],
    }


def score(subject, judge, real, labels, *, seed, redraw, asked):
    """The row of another seed, which is drawn and judged, and not kept.

    Args:
        subject: `subjects.Subject`.
        judge: `onnx_classifier.Classifier`.
        real: `measure.References` for these labels.
        labels: int [N].
        seed: of the images.
        redraw: `redrawn.Redrawn` that has read nothing yet.
        asked: arguments of `sample` that decide its tableau and guidance.

    Returns:
        As `of_record`.
    """
    images = subject.draw(labels, seed=seed, **redraw.arguments(), **asked)
    found = measure.score(judge, images, labels, real)
    if not subject.num_classes:
        del found["accuracy"]
    cost = redraw.to_json(subject.calls(**asked), len(labels))
    return {"seed": seed, **found, "network_calls_mean": cost["network_calls_mean"]}


def summary(rows):
    """Mean and standard deviation (of one seed, from n - 1) of each figure.

    Args:
        rows: two or more, as `of_record`.
    """
    figures = [name for name in rows[0] if name != "seed"]
    values = {name: np.array([row[name] for row in rows]) for name in figures}
    return {
        "mean": {name: float(found.mean()) for name, found in values.items()},
        "deviation": {name: float(found.std(ddof=1)) for name, found in values.items()},
    }
