"""The parity certificate: that every exported file computes what the Keras model does, on the same noise.

Compared are single calls of the network and whole images, by every sampler, at several batch sizes.
"""

import pathlib

import numpy as np
import tensorflow as tf

from keras_diffusion.errors import UserError
from keras_diffusion.exporting import lite
from keras_diffusion.sampling import guidance, loop, onnx_model, portable, request, samplers

CALL_TOLERANCE = 1e-4  # of outputs, which are about as large as standard normal numbers
IMAGE_TOLERANCE = 1e-3  # a quarter of a grey level of 256
BATCHES = {1: 10, 3: 10, 64: 3}  # images, and steps that they are drawn in
FILES = ("saved_model", "denoiser.onnx", "sampler.onnx", "sampler_noise.onnx", "denoiser.tflite")
SEED = 20
GUIDANCE = 3.0


def certify(model, network, folder):
    """Compares the files in a folder with the model that they were made of.

    Args:
        model: `DiffusionModel`.
        network: the network that was exported, in float32.
        folder: path with saved_model/, denoiser.onnx, sampler.onnx, sampler_noise.onnx.

    Returns:
        The figures, as JSON: the largest absolute differences.

    Raises:
        UserError: where one is past its tolerance, or isn't a number.
    """
    folder = pathlib.Path(folder)
    files = _Files(model, network, folder)
    calls = [{"images": n, **files.call(n)} for n in BATCHES]
    drawn = [
        {"sampler": name, **options, "images": n, "rows": len(plan), **files.draw(n, plan)}
        for name, options in _samplers(model.schedule)
        for n, steps in BATCHES.items()
        for plan in [_plan(model, name, options, steps)]
    ]
    _check("call", calls, CALL_TOLERANCE)
    _check("images", drawn, IMAGE_TOLERANCE)
    tolerance = {"call": CALL_TOLERANCE, "images": IMAGE_TOLERANCE}
    return {
        "what": "largest absolute differences from the Keras model, on the same inputs and noise",
        "tolerance": tolerance,
        "guidance_scale": _scale(model),
        "seed": SEED,
        "calls": calls,
        "samples": drawn,
    }


def certify_lite(model, network, folder):
    """Compares denoiser.tflite with the model; the figures, or a UserError, as `certify`."""
    keras_call = _keras_call(model, network)
    rows = []
    for n in BATCHES:
        given = _inputs(model, n)
        inputs = {name: given[name] for name in model.inputs_used}
        got = lite.call(pathlib.Path(folder) / "denoiser.tflite", inputs)
        rows.append({"images": n, "denoiser.tflite": _difference(keras_call(**given), got)})
    _check("call", rows, CALL_TOLERANCE)
    return rows


def _keras_call(model, network):
    """The Keras model's network on arrays."""
    call = tf.function(
        lambda x, t, label: model.denoise(x, t, label, network=network), reduce_retracing=True
    )
    return lambda x, t, label: call(*map(tf.constant, (x, t, label))).numpy()


def _inputs(model, n):
    """Arguments of one call on n images."""
    rng = np.random.default_rng(n)
    return {
        "x": rng.standard_normal((n, *model.image_shape)).astype(np.float32),
        "t": rng.random(n).astype(np.float32),
        "label": (np.arange(n) % (model.num_classes + 1)).astype(np.int32),
    }


def _samplers(schedule):
    """Every sampler, and ddpm and ddim with each kind of noise."""
    for name in samplers.SAMPLERS:
        if name in ("euler", "midpoint") and not schedule.is_flow:
            continue
        if name == "ddpm":
            yield name, {"variance": "beta"}
        if name == "ddim":
            yield name, {"eta": 0.5}
        yield name, {}


def _plan(model, name, options, steps):
    steps = min(steps, model.schedule.num_train_steps)
    return samplers.plan(model.schedule, model.prediction, sampler=name, num_steps=steps, **options)


def _scale(model):
    return GUIDANCE if model.num_classes else 1.0


class _Files:
    """The model and what it was exported to, each called in the same way."""

    def __init__(self, model, network, folder):
        self.model = model
        self._keras = _keras_call(model, network)
        self.saved = tf.saved_model.load(str(folder / "saved_model")).signatures
        self.denoiser = onnx_model.load(folder / "denoiser.onnx", provider="cpu")
        self.sampler = onnx_model.load(folder / "sampler.onnx", provider="cpu")
        self.with_noise = onnx_model.session(folder / "sampler_noise.onnx", None, "cpu")

    def call(self, n):
        """Differences of one call of the network on n images."""
        given = _inputs(self.model, n)
        expected = self._keras(**given)
        inputs = {name: tf.constant(given[name]) for name in self.model.inputs_used}
        saved = self.saved["denoise"](**inputs)["out"]
        return {
            "saved_model": _difference(expected, saved.numpy()),
            "denoiser.onnx": _difference(expected, self.denoiser.network(**given)),
        }

    def draw(self, n, plan):
        """Differences of n images."""
        labels = np.arange(n) % (self.model.num_classes + 1)
        scale = np.full(n, _scale(self.model), np.float32)
        asked = request.make(
            labels,
            image_shape=self.model.image_shape,
            num_classes=self.model.num_classes,
            guidance_scale=scale,
            seed=SEED,
        )
        weights = guidance.weights(plan)
        rows = portable.table(plan, weights)
        whole = {
            "label": labels.astype(np.int32),
            "index": request.numbers(labels),
            "seed": np.array(SEED, np.int64),
            "guidance_scale": scale,
            "rows": rows,
        }
        noise = asked.row_noise(plan, range(len(plan)))
        given = {"x": asked.noise(0), "noise": noise}
        given |= {name: whole[name] for name in ("label", "guidance_scale", "rows")}
        expected = self._loop(self._keras, plan, asked, weights)
        saved = self.saved["sample"](**{name: tf.constant(v) for name, v in whole.items()})
        return {
            "saved_model": _difference(expected, saved["images"].numpy()),
            "denoiser.onnx": _difference(
                expected, self._loop(self.denoiser.network, plan, asked, weights)
            ),
            "sampler.onnx": _difference(expected, self.sampler.session.run(["images"], whole)[0]),
            "sampler_noise.onnx": _difference(expected, self.with_noise.run(["images"], given)[0]),
        }

    def _loop(self, network, plan, asked, weights):
        run = loop.runner(network, null_label=self.model.num_classes)
        return loop.drive(run, plan, asked, weights=weights)


def _difference(expected, got):
    return float(np.abs(expected - got).max())


def _check(what, rows, tolerance):
    for row in rows:
        for name in FILES:
            difference = row.get(name, 0.0)
            if not difference <= tolerance:
                where = ", ".join(f"{k} {v}" for k, v in row.items() if k in ("sampler", "images"))
                raise UserError(
                    f"{name}: expected {what} within {tolerance:g} of the Keras model's, got {difference:g} ({where}); nothing was written"
                )
