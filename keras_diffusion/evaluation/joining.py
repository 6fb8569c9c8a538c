"""Several classifiers in one file, which gives an image the mean of their probabilities: what one wrongly doubts the others don't.

The first reads every image, and the others those that it isn't sure of, few: most of the time is the first's.

Reference: Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", section 2.4.
"""

import functools

import numpy as np
import onnx

from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import judge_file
from keras_diffusion.exporting import graph
from keras_diffusion.sampling import onnx_classifier

SURE = 0.999  # the probability from which on the first classifier is enough


def join(paths, data):
    """One classifier of several: its logits are the logarithms of their mean probabilities, or where the first is sure of its own.

    The features are the first's.

    Args:
        paths: of two or more different files that scripts/train_judge.py trained, of the same classes and shape of images.
        data: `data.ImageData` of these, on whose test set the whole is measured.

    Returns:
        As `judge_file.of`; the recipe names each file's SHA-256, recipe and accuracy.

    Raises:
        UserError: where one is no such file, was joined itself, is there twice, or is of other classes or another shape.
    """
    wanted = {"image_shape": data.image_shape, "class_names": data.class_names}
    parts = [onnx_classifier.single(path, option="--join", **wanted) for path in paths]
    if len({part.sha256 for part in parts}) < len(parts):
        raise UserError(
            f"--join: expected different files, got one twice in {', '.join(map(str, paths))}"
        )
    recipe = {onnx_classifier.MEAN_OF: [_described(part) for part in parts], "sure": SURE}
    return judge_file.of(_graph(parts), data, recipe)


def _loaded(path):
    """The graph of a file, which must be of plain operators that mean what they mean in ours."""
    model = onnx.load(path)
    plain = not any(
        node.domain or any(attribute.HasField("g") for attribute in node.attribute)
        for node in model.graph.node
    )
    if not plain or [(one.domain, one.version) for one in model.opset_import] != [
        ("", graph.OPSET)
    ]:
        raise UserError(
            f"--join: expected files that this version of train_judge.py wrote, got {path} of other operators; train it again"
        )
    return model


def _described(part):
    says = {name: part.says[name] for name in ("recipe", "test_accuracy")}
    return {"sha256": part.sha256, **says}


def _graph(parts):
    g = graph.Graph("joined")
    x = g.input("x", np.float32, ["N", *parts[0].says["image_shape"]])
    first, *others = (
        functools.partial(g.inline, _loaded(part.path), prefix=f"part{k}_")
        for k, part in enumerate(parts)
    )
    read = first({"x": x})
    log_p = g.op("LogSoftmax", read["logits"], axis=1)
    rows = _below(g, log_p, np.log(SURE))
    doubted = {"x": g.op("Gather", x, rows, axis=0)}
    every = [
        g.op("Gather", log_p, rows, axis=0),
        *(g.op("LogSoftmax", other(doubted)["logits"], axis=1) for other in others),
    ]
    together = g.op("Concat", *(g.op("Unsqueeze", one, np.array([0])) for one in every), axis=0)
    mean = g.op("ReduceLogSumExp", together, np.array([0]), keepdims=0) - np.log(len(parts))
    log_p = g.op("ScatterND", log_p, g.op("Unsqueeze", rows, np.array([1])), mean)
    g.output(log_p, "logits", ["N", parts[0].num_classes])
    g.output(read["features"], "features", ["N", parts[0].num_features])
    return graph.model(g.build(), metadata={})


def _below(g, log_p, least):
    """The rows of log probabilities [N, K] whose greatest is less: int64 [n]."""
    greatest = g.op("ReduceMax", log_p, np.array([1]), keepdims=0)
    unsure = g.op("Less", greatest, np.float32(least), dtype=np.bool_)
    return g.op("Squeeze", g.op("NonZero", unsure, dtype=np.int64), np.array([0]))
