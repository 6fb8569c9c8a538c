"""The way back: a denoiser.onnx as the Keras model that it was made of, to be trained on, matched with other images, or exported anew."""

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import building, fitting
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import convert, denoiser, restorable
from keras_diffusion.files import replacing
from keras_diffusion.nn.blocks import BatchNorm, layers, watching
from keras_diffusion.runs import DISTILLED

TOLERANCE = 1e-3  # of a call's outputs, between the file and what is made of it
_MEAN, _STD = 0.3437, 0.2719  # of a template: numbers that stand nowhere else in a graph
# Of a convolution's kernel, transposed or not, as ONNX and as Keras have it.
_FROM_ONNX, _TO_ONNX = (2, 3, 1, 0), (3, 2, 0, 1)
_LOOKED_AT, _TIMES = (
    100,
    8,
)  # images that BatchNorm's statistics are taken from, each at so many times


def from_onnx(path=None):
    """A file that export/convert.py wrote as a `DiffusionModel`; by default the model that comes with the package.

    It draws what the file draws where nothing is drawn again, to rounding, and is trained on like any other: `compile`, `fit`,
    `kd.distill`, `kd.match`. Its weights are the averaged ones, as the file stores them (in 8 bits no longer to the bit what was
    trained). A file has BatchNorm within the convolutions, without the statistics that training with batch statistics needs: they
    are taken anew from a hundred images that the model draws. A reader isn't part of it.

    Args:
        path: of a denoiser.onnx, of any precision, of a run of fit.py or distill.py.

    Returns:
        `DiffusionModel` under the dtype policy that holds, not compiled. Unless told otherwise it draws as the file does.

    Raises:
        UserError: where it is no such file, or of a network that this version doesn't build.

    Example:
        >>> model = kd.from_onnx()  # the digits that ship
        >>> model.compile(optimizer=keras.optimizers.Adam(1e-4))
        >>> model.fit(images, labels, epochs=1)
    """
    return _restored(restorable.open_file(path))


def make_run(file, run, *, command):
    """Writes the folder of a finished run with what `from_onnx` finds, in the precision that the file's run had.

    Args:
        file: `restorable.Restorable`.
        run: `runs.Run` of a folder that isn't there yet.
        command: the command line that did it, for run.json.

    Raises:
        UserError: as `from_onnx`, or where the folder can't be made. Then nothing is left of it.
    """
    keras.config.set_dtype_policy(file.asked.precision)
    model = _restored(file)
    run.create()
    try:
        with run.held(), replacing(run.model) as beside:
            model.save(beside)
        run.write(_record(file.exported.spec, model, command))
    except BaseException:
        run.remove_if_empty()
        raise


def _record(spec, model, command):
    """What run.json says."""
    told = spec.training
    names = {"class_names": list(spec.class_names)} if spec.class_names else {}
    return {
        **{name: told[name] for name in ("title", "parts", "steps", DISTILLED) if name in told},
        "settings": told["settings"],
        "data": {**told.get("data", {}), **names},
        "command": command,
        "sessions": [],
        "restored": {"weights_sha256": spec.weights_sha256, "precision": spec.precision},
        **fitting.describe(model.network, model),
        "figures": [],
        "status": "finished",
    }


def _restored(file):
    """The model of a `Restorable`."""
    try:
        template = _model(file, _MEAN, _STD)
        _make_recognizable(template.network)
        slots = _slots(template, file)
        mean, std = (_number(slots, number) for number in (_MEAN, _STD))
        model = _model(file, mean, std)
    except ValueError as error:  # a UserError is one
        told = (
            error
            if isinstance(error, _Refused)
            else f"expected what its run's settings say; {error}"
        )
        raise UserError(f"{file.path}: {told}") from None
    weights = [_found(weight, slots, file.path) for weight in template.network.weights]
    model.network.set_weights(weights)
    _compare(model, file)
    _settle(model)
    return model


class _Refused(UserError):
    """What a file was expected to have, without its name."""


class _Images:
    """What of the data a recipe's network depends on."""

    name = "a file's images"

    def __init__(self, spec, mean, std):
        self.image_shape, self.num_classes = spec.image_shape, spec.num_classes
        self._moments = mean, std

    def moments(self):
        """Mean and deviation of the pixels."""
        return self._moments


def _model(file, mean, std):
    """The model that a `Restorable` is of, for images of this mean and deviation."""
    spec = file.exported.spec
    unguided = {"guidance_scale": 1.0} if spec.num_classes else {}  # where a file says nothing
    return building.uncompiled(
        file.asked.course,
        _Images(spec, mean, std),
        width=file.asked.width,
        refiner=file.refiner,
        schedule=spec.make_schedule(),
        prediction=spec.prediction,
        ema_decay=None,
        sampling={**unguided, **spec.defaults},
    )


def _make_recognizable(network):
    """Gives each weight that a file has numbers of its own, and BatchNorm those that folding leaves alone."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(size=weight.shape))
    for layer in layers(network):
        if isinstance(layer, BatchNorm):
            for weight in (layer.bias, layer.moving_mean):
                weight.assign(np.zeros(weight.shape))
            layer.gamma.assign(np.ones(layer.gamma.shape))
            layer.moving_variance.assign(np.full(layer.gamma.shape, 1 - layer.epsilon))


def _slots(template, file):
    """Pairs of arrays: what a template's graph has in a place, and what the file's graph has there.

    Raises:
        _Refused: where the two graphs aren't alike.
    """
    network = convert.in_float32(template.network)
    branches = any(kind == "If" for kind, _ in file.nodes)  # files of earlier versions have none
    signature = denoiser.signature(template)
    graph = denoiser.to_onnx(network, signature, branches=branches).graph
    own, theirs = restorable.constants(graph), file.nodes
    alike = [kind for kind, _ in own] == [kind for kind, _ in theirs]
    pairs = [pair for (_, a), (_, b) in zip(own, theirs, strict=False) for pair in zip(a, b, strict=False)]  # fmt: skip
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not alike or any(a.shape != b.shape for a, b in pairs):
        raise _Refused(
            f"expected the graph of {template.network.name} as this version exports it, got another"
        )
    return pairs


def _number(slots, number):
    """What the file has where a template has a number; the number itself where that stands nowhere."""
    found = {float(b) for a, b in slots if a.size == 1 and np.float32(number) == a.ravel()[0]}
    return found.pop() if found else number


def _found(weight, slots, path):
    """A template's weight as the file has it, in Keras's order of axes; what no file has as it is."""
    own = weight.numpy()
    turned = own.transpose(_TO_ONNX) if own.ndim == 4 else own
    for a, b in slots:
        if a.shape == turned.shape and np.allclose(a, turned, rtol=1e-5, atol=1e-6):
            return b.transpose(_FROM_ONNX) if own.ndim == 4 else b
    if "_bn/" in weight.path and not weight.path.endswith("/beta"):
        return own
    raise UserError(f"{path}: expected the weights {weight.path}, found none")


def _compare(model, file):
    """Whether the model's calls are the file's.

    Raises:
        UserError: where they aren't.
    """
    t = np.linspace(0.1, 1.0, 4, dtype=np.float32)
    if file.refiner is not None:  # where it acts, and where it doesn't any more
        below = file.refiner["below"] / model.schedule.num_train_steps
        t = np.append(t, np.float32([below / 2, below, 1.01 * below]))
    rng, count = np.random.default_rng(0), len(t)
    x = rng.normal(size=(count, *model.image_shape)).astype(np.float32)
    label = np.arange(count, dtype=np.int32) % (model.num_classes + 1)
    network = convert.in_float32(model.network)
    call = tf.function(lambda *inputs: model.denoise(*inputs, network=network))
    ours = call(x, t, label).numpy()
    # One by one: a file asks whether one of the images is at a time at which a refiner acts.
    rows = [slice(k, k + 1) for k in range(count)]
    theirs = np.concatenate([file.exported.network(x[k], t[k], label[k]) for k in rows])
    apart = float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    if not apart <= TOLERANCE:
        raise UserError(
            f"{file.path}: expected a network whose outputs are the file's, got one that is {apart:.2g} apart"
        )


def _settle(model):
    """Gives BatchNorm the statistics of what goes into it, and a gamma and beta with which the network computes what it did.

    Without them a training step, which normalizes by its batch, would begin with another network.
    """
    layers = []

    @tf.function
    def look(xt, t, label):
        layers.clear()
        found = []

        def note(layer, x):
            x = tf.cast(x, tf.float64)
            layers.append(layer)
            found.append([tf.reduce_mean(power, axis=(0, 1, 2)) for power in (x, tf.square(x))])

        with watching(note):
            model.denoise(xt, t, label)
        return found

    seen = [look(*given) for given in _noised(model)]
    for k, layer in enumerate(layers):
        mean, square = np.mean([[part.numpy() for part in found[k]] for found in seen], axis=0)
        variance = np.maximum(square - mean**2, 0.0)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
        layer.gamma.assign(np.sqrt(variance + layer.epsilon))
        layer.beta.assign_add(mean)


def _noised(model):
    """What training would call the network with, of images that it draws: tuples of xt, t/T, label."""
    label = np.arange(_LOOKED_AT, dtype=np.int32) % max(1, model.num_classes)
    asked = {"labels": label} if model.num_classes else {"num_images": _LOOKED_AT}
    x0 = tf.constant(model.sample(**asked))
    for step in range(_TIMES):
        step = tf.constant(step, tf.int64)
        xt, t, _ = model.corrupt(x0, step=step)
        yield xt, t, model._hide(tf.constant(label), step=step)
