"""A classifier's ONNX file as bytes: its graph, and what it says of itself, its accuracy on the test set too."""

import json
import tempfile

import numpy as np
import onnx

import keras_diffusion
from keras_diffusion.sampling import onnx_classifier


def of(graph, data, recipe, **more):
    """The file of a graph.

    Args:
        graph: `onnx.ModelProto` from float32 x [N, H, W, C] to `logits` [N, K] and `features` [N, F].
        data: `data.ImageData` that it was made for; its test set is read.
        recipe: dict of what made it.
        more: what else it says of itself, or in place of what stands here.

    Returns:
        (its bytes, what it says of itself). The accuracy is that of the file.
    """
    says = {
        "format": onnx_classifier.FORMAT,
        "data": data.identity(),
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "recipe": recipe,
        "versions": {"keras_diffusion": keras_diffusion.__version__},
        "test_accuracy": 0.0,
        **more,
    }
    says["test_accuracy"] = _accuracy(_with(graph, says), data)
    return _with(graph, says), says


def _with(graph, says):
    """The file's bytes, with its metadata."""
    onnx.helper.set_model_props(graph, {onnx_classifier.KEY: json.dumps(says, sort_keys=True)})
    return graph.SerializeToString()


def _accuracy(file, data):
    with tempfile.NamedTemporaryFile(suffix=".onnx") as beside:
        beside.write(file)
        beside.flush()
        logits, _ = onnx_classifier.Classifier(beside.name)(data.x_test.astype(np.float32) / 255)
    return float(np.mean(logits.argmax(axis=1) == data.y_test))
