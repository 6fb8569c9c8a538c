"""Trains a judge and writes it as ONNX."""

import json
import tempfile
import time

import numpy as np
import onnx
import tensorflow as tf

import keras_diffusion
from keras_diffusion.evaluation import classifier
from keras_diffusion.exporting import denoiser, smaller
from keras_diffusion.nn import blocks
from keras_diffusion.sampling import onnx_classifier


def make(data, recipe, *, verbose=0):
    """A judge.

    Args:
        data: `data.ImageData`.
        recipe: dict of `epochs`, `flip`, `width`, `seed`, as `classifier.train` takes them.
        verbose: as in Keras.

    Returns:
        (the ONNX file as bytes, what it says of itself). The accuracy is that of the file, not of the Keras model.
    """
    began = time.monotonic()
    images = data.x_train.astype(np.float32) / 255
    model = classifier.train(
        images, data.y_train, num_classes=data.num_classes, verbose=verbose, **recipe
    )
    says = {
        "format": onnx_classifier.FORMAT,
        "data": data.identity(),
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "recipe": recipe,
        "seconds": round(time.monotonic() - began, 1),
        "versions": {"keras_diffusion": keras_diffusion.__version__, "tensorflow": tf.__version__},
        "test_accuracy": 0.0,
    }
    graph = smaller.shrink(_to_onnx(model), "float16")
    says["test_accuracy"] = _accuracy(_with(graph, says), data)
    return _with(graph, says), says


def _to_onnx(model):
    specs = {"x": tf.TensorSpec((None, *model.input.shape[1:]), tf.float32, name="x")}

    def read(x):
        with blocks.as_operations():
            return model(x, training=False)

    traced = tf.function(read, input_signature=list(specs.values()), autograph=False)
    return denoiser.convert(traced, specs, ["logits", "features"], name="judge")


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
