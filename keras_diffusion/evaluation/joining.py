"""Several classifiers in one file, which gives an image the mean of their probabilities: what one wrongly doubts the others don't.

Reference: Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", section 2.4.
"""

import numpy as np
import onnx

from keras_diffusion.evaluation import judge_file
from keras_diffusion.exporting import graph
from keras_diffusion.sampling import onnx_classifier


def join(paths, data):
    """One classifier of several: its logits are the logarithms of their mean probabilities, its features theirs side by side.

    Args:
        paths: of two or more files that scripts/train_judge.py trained, of the same images and classes.
        data: `data.ImageData` of these, on whose test set the whole is measured.

    Returns:
        As `judge_file.of`; the recipe names each file's SHA-256, recipe and accuracy.

    Raises:
        UserError: where one is no such file, was joined itself, or is of other images or classes.
    """
    wanted = {"image_shape": data.image_shape, "class_names": data.class_names}
    parts = [onnx_classifier.single(path, option="--join", **wanted) for path in paths]
    recipe = {onnx_classifier.MEAN_OF: [_described(part) for part in parts]}
    return judge_file.of(_graph(parts), data, recipe)


def _described(part):
    says = {name: part.says[name] for name in ("recipe", "test_accuracy")}
    return {"sha256": part.sha256, **says}


def _graph(parts):
    g = graph.Graph("joined")
    x = g.input("x", np.float32, ["N", *parts[0].says["image_shape"]])
    models = [onnx.load(part.path) for part in parts]
    outs = [g.inline(model, {"x": x}, prefix=f"part{k}_") for k, model in enumerate(models)]
    logs = [g.op("LogSoftmax", out["logits"], axis=1) for out in outs]
    each = g.op("Concat", *(g.op("Unsqueeze", log, np.array([0])) for log in logs), axis=0)
    mean = g.op("ReduceLogSumExp", each, np.array([0]), keepdims=0) - np.log(len(parts))
    features = g.op("Concat", *(out["features"] for out in outs), axis=1)
    g.output(mean, "logits", ["N", parts[0].num_classes])
    g.output(features, "features", ["N", sum(part.num_features for part in parts)])
    return graph.model(g.build(), metadata={})
