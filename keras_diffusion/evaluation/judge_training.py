"""Trains a judge and writes it as ONNX."""

import time

import numpy as np
import tensorflow as tf

import keras_diffusion
from keras_diffusion.evaluation import classifier, judge_file
from keras_diffusion.exporting import denoiser, smaller
from keras_diffusion.nn import blocks


def make(data, recipe, *, verbose=0):
    """A judge.

    Args:
        data: `data.ImageData`.
        recipe: dict of `epochs`, `flip`, `width`, `seed`, `precision`, as `classifier.train` takes them.
        verbose: as in Keras.

    Returns:
        As `judge_file.of`.
    """
    began = time.monotonic()
    images = data.x_train.astype(np.float32) / 255
    model = classifier.train(
        images, data.y_train, num_classes=data.num_classes, verbose=verbose, **recipe
    )
    seconds = round(time.monotonic() - began, 1)
    graph = smaller.shrink(_to_onnx(model), "float16")
    versions = {"keras_diffusion": keras_diffusion.__version__, "tensorflow": tf.__version__}
    return judge_file.of(graph, data, recipe, seconds=seconds, versions=versions)


def _to_onnx(model):
    specs = {"x": tf.TensorSpec((None, *model.input.shape[1:]), tf.float32, name="x")}

    def read(x):
        with blocks.as_operations():
            return model(x, training=False)

    traced = tf.function(read, input_signature=list(specs.values()), autograph=False)
    return denoiser.convert(traced, specs, ["logits", "features"], name="judge")
