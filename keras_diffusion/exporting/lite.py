"""One call of the network as a TensorFlow Lite file, by the converter that TensorFlow brings."""

import pathlib
import tempfile
import warnings

import numpy as np
import tensorflow as tf

from keras_diffusion.errors import UserError


def write(path, saved):
    """Writes the network as a TensorFlow Lite file with the signature `denoise`: x, t, label -> out, N free.

    Args:
        path: of the file.
        saved: (module, concrete function) of `denoise`, as `saved_model.denoiser` makes them.

    Raises:
        UserError: where the network has operations that TensorFlow Lite doesn't.
    """
    module, denoise = saved
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"denoise": denoise})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        try:
            data = converter.convert()
        except Exception as error:  # the converter's own classes
            reason = " ".join(str(error).split())
            raise UserError(
                f"tflite: expected operations that TensorFlow Lite has, got: {reason[:200]}; leave it out"
            ) from None
    pathlib.Path(path).write_bytes(data)


def call(path, inputs):
    """The output of the file for a dict of arrays: float32 [N, H, W, C]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its move to another package
        interpreter = tf.lite.Interpreter(model_path=str(path))
    return np.array(interpreter.get_signature_runner("denoise")(**inputs)["out"])
