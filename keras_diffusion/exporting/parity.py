"""The parity certificate: that every exported file computes what the Keras model does, on the same noise.

Compared are single calls of the network and whole images, by every sampler, at several batch sizes.
"""

import pathlib

import numpy as np
import tensorflow as tf

from keras_diffusion.errors import UserError
from keras_diffusion.exporting import lite
from keras_diffusion.sampling import (
    guidance,
    loop,
    onnx_model,
    onnx_session,
    portable,
    request,
    samplers,
)

CALL_TOLERANCE = 1e-4  # of outputs, which are about as large as standard normal numbers
IMAGE_TOLERANCE = 1e-3  # a quarter of a grey level of 256
BATCHES = {1: 10, 3: 10, 64: 3}  # images, and steps that they are drawn in
FILES = ("saved_model", "denoiser.onnx", "sampler.onnx", "sampler_noise.onnx", "denoiser.tflite")
SEED = 2**40 + 20  # both of its words count
GUIDANCE = 3.0
INTERVAL = (0.0, 0.7)  # where guidance acts, with more images than one
# A network trained in 16 bits, and the same in float32: only to tell it from another network.
PRECISION_TOLERANCE = 0.1


def certify(model, network, folder, defaults):
    """Compares the files in a folder with the model that they were made of.

    Args:
        model: `DiffusionModel`.
        network: the network that was exported, in float32.
        folder: path with saved_model/, denoiser.onnx, sampler.onnx, sampler_noise.onnx.
        defaults: the spec's, which the samplers have inside.

    Returns:
        The figures, as JSON: the largest absolute differences.

    Raises:
        UserError: where one is past its tolerance, or isn't a number.
    """
    folder = pathlib.Path(folder)
    files = _Files(model, network, folder)
    calls = [{"images": n, **files.call(n)} for n in BATCHES]
    drawn = []
    for name, options in _samplers(model.schedule):
        for n, steps in BATCHES.items():
            steps = min(steps, model.schedule.num_train_steps)
            plan = samplers.plan(
                model.schedule, model.prediction, sampler=name, num_steps=steps, **options
            )
            task = _Task(model, n, plan, interval=INTERVAL if n > 1 else None)
            found = {"sampler": name, **options, "images": n, "rows": len(plan)}
            drawn.append({**found, **files.draw(task)})
    task = _Task(model, 3, default_plan(model, defaults), own_rows=True, **_interval(defaults))
    drawn.append({"sampler": "the file's own", "images": 3, **files.draw(task)})
    _check("call", calls, CALL_TOLERANCE)
    _check("images", drawn, IMAGE_TOLERANCE)
    tolerance = {"call": CALL_TOLERANCE, "images": IMAGE_TOLERANCE}
    return {
        "what": "largest absolute differences from the Keras model, on the same inputs and noise",
        "tolerance": tolerance,
        "seed": SEED,
        "rebuilt_in_float32": _rebuilt(model, network),
        "calls": calls,
        "samples": drawn,
    }


def default_plan(model, defaults):
    """The tableau of a spec's defaults."""
    return samplers.plan(model.schedule, model.prediction, **samplers.of_plan(defaults))


def _interval(defaults):
    return {"interval": defaults.get("guidance_interval")}


def _rebuilt(model, network):
    """How far the network is from the one that was trained; None where it is that one."""
    if network is model.sampling_network:
        return None
    given = _inputs(model, 3)
    trained = _keras_call(model, model.sampling_network)(**given)
    difference = _difference(trained, _keras_call(model, network)(**given))
    _check("call", [{"saved_model": difference}], PRECISION_TOLERANCE)
    return difference


def certify_small(folder, precision):
    """Compares samplers of smaller weights with the denoiser of the same weights; the figures, or a UserError."""
    folder = pathlib.Path(folder)
    names = {kind: f"{kind}.{precision}.onnx" for kind in ("sampler", "sampler_noise")}
    denoiser = onnx_model.load(folder / f"denoiser.{precision}.onnx", provider="cpu")
    spec = denoiser.spec
    task = _Task(spec, 3, denoiser.plan(), own_rows=True, **_interval(spec.defaults))
    expected = task.loop(denoiser.network)
    rows = [
        {names["sampler"]: _difference(expected, _run(folder / names["sampler"], task.whole))},
        {
            names["sampler_noise"]: _difference(
                expected, _run(folder / names["sampler_noise"], task.given)
            )
        },
    ]
    _check("images", rows, IMAGE_TOLERANCE, files=names.values())
    return {name: value for row in rows for name, value in row.items()}


def _run(path, given):
    return onnx_session.Session(path).whole.run(["images"], given)[0]


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
    specs = [  # traced once, whatever the number of images
        tf.TensorSpec((None, *model.image_shape), tf.float32),
        tf.TensorSpec((None,), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]
    call = tf.function(
        lambda x, t, label: model.denoise(x, t, label, network=network), input_signature=specs
    )
    return lambda x, t, label: call(*map(tf.constant, (x, t, label))).numpy()


def _inputs(model, n):
    """Arguments of one call on n images: xt of random images, the first at T, the others at random times."""
    rng, schedule = np.random.default_rng(n), model.schedule
    t = schedule.num_train_steps * np.append(1.0, rng.random(n - 1))
    t = t if schedule.continuous else np.ceil(t)
    alpha, sigma = (np.reshape(value, (-1, 1, 1, 1)) for value in schedule.at(t))
    shape = (n, *model.image_shape)
    xt = alpha * rng.random(shape) + sigma * rng.standard_normal(shape)
    return {
        "x": xt.astype(np.float32),
        "t": (t / schedule.num_train_steps).astype(np.float32),
        "label": (np.arange(n) % (model.num_classes + 1)).astype(np.int32),
    }


def _samplers(schedule):
    """Every sampler, and ddpm and ddim with each kind of noise; one of them sharpened."""
    for name in samplers.SAMPLERS:
        if name in ("euler", "midpoint") and not schedule.is_flow:
            continue
        if name == "ddpm":
            yield name, {"variance": "beta"}
        if name == "ddim":
            yield name, {"eta": 0.5, "sharpen": 0.5}
        yield name, {}


class _Task:
    """Images to draw, in the forms that every sampler takes.

    Args:
        model: `DiffusionModel` or `Spec`, for its classes and the shape of its images.
        n: number of images; their classes take turns, no class among them, and their guidance falls to 0.
        plan: `Tableau`.
        interval: where guidance acts.
        own_rows: whether the samplers are left to their own rows, which must be the plan's, and one scale for all.
    """

    def __init__(self, model, n, plan, *, interval, own_rows=False):
        self.plan, self.null_label = plan, model.num_classes
        labels = np.arange(n) % (model.num_classes + 1)
        scale = np.linspace(GUIDANCE, 0.0, n) if not own_rows else np.array([GUIDANCE])
        scale = scale.astype(np.float32)
        self.asked = request.make(
            labels,
            image_shape=model.image_shape,
            num_classes=model.num_classes,
            guidance_scale=scale if n == len(scale) else scale[0],
            seed=SEED,
        )
        self.weights = guidance.weights(plan, interval)
        rows = portable.table(plan, self.weights)
        both = {
            "label": labels.astype(np.int32),
            "guidance_scale": scale,
            "rows": rows[:0] if own_rows else rows,
        }
        index, noise = request.numbers(labels), self.asked.row_noise(plan, range(len(plan)))
        self.whole = {**both, "index": index, "seed": np.array(SEED, np.int64)}
        self.given = {**both, "x": self.asked.noise(0), "noise": noise}

    def loop(self, network):
        """The images, drawn by the loop in NumPy around a network."""
        run = loop.runner(network, null_label=self.null_label)
        return loop.drive(run, self.plan, self.asked, weights=self.weights)


class _Files:
    """The model and what it was exported to, each called in the same way."""

    def __init__(self, model, network, folder):
        self.model = model
        self._keras = _keras_call(model, network)
        self.saved = tf.saved_model.load(str(folder / "saved_model")).signatures
        self.denoiser = onnx_model.load(folder / "denoiser.onnx", provider="cpu")
        self.sampler = onnx_model.load(folder / "sampler.onnx", provider="cpu")
        self.with_noise = onnx_session.Session(folder / "sampler_noise.onnx").whole

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

    def draw(self, task):
        """Differences of a task's images."""
        expected = task.loop(self._keras)
        saved = self.saved["sample"](**{name: tf.constant(v) for name, v in task.whole.items()})
        images = {
            "saved_model": saved["images"].numpy(),
            "denoiser.onnx": task.loop(self.denoiser.network),
            "sampler.onnx": self.sampler.run(task.whole),
            "sampler_noise.onnx": self.with_noise.run(["images"], task.given)[0],
        }
        return {name: _difference(expected, got) for name, got in images.items()}


def _difference(expected, got):
    return float(np.abs(expected - got).max())


def _check(what, rows, tolerance, files=FILES):
    for row in rows:
        for name in files:
            difference = row.get(name, 0.0)
            if not difference <= tolerance:
                where = ", ".join(f"{k} {v}" for k, v in row.items() if k in ("sampler", "images"))
                raise UserError(
                    f"{name}: expected {what} within {tolerance:g} of what they are made of, got {difference:g} ({where}); nothing was written"
                )
