"""The way back: a denoiser.onnx as the Keras model that it was made of, to be trained on, matched with other images, or exported anew."""

import keras
import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from keras_diffusion import building, fitting
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import convert, denoiser
from keras_diffusion.exporting.restorable import open_file
from keras_diffusion.files import replacing
from keras_diffusion.nn.blocks import BatchNorm
from keras_diffusion.runs import DISTILLED
from keras_diffusion.sampling import onnx_model
from keras_diffusion.training import DiffusionModel

TOLERANCE = 1e-3  # of a call's outputs, between the file and what is made of it
_MEAN, _STD = 0.3437, 0.2719  # of a template: numbers that stand nowhere else in a graph
# Of a convolution's kernel, transposed or not, as ONNX and as Keras have it.
_FROM_ONNX, _TO_ONNX = (2, 3, 1, 0), (3, 2, 0, 1)


def from_onnx(path=None):
    """A file that export/convert.py wrote as a `DiffusionModel`; by default the model that comes with the package.

    It draws what the file draws, to rounding, and is trained on like any other: `compile`, `fit`, `kd.distill`, `kd.match`.
    Its weights are the averaged ones, as the file stores them (in 8 bits no longer to the bit what was trained), and
    BatchNorm is in the convolutions: its gamma and moving variance are 1. A reader isn't part of it.

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
    path = onnx_model.SHIPPED if path is None else path
    exported, asked = open_file(path)
    try:
        template = _model(asked, exported.spec, _MEAN, _STD)
    except ValueError as error:
        raise UserError(f"{path}: expected what its run's settings say; {error}") from None
    _make_recognizable(template.network)
    slots = _slots(template, onnx.load(path).graph, path)
    mean, std = (_number(slots, number) for number in (_MEAN, _STD))
    model = _model(asked, exported.spec, mean, std)
    model.network.set_weights([_found(weight, slots, path) for weight in template.network.weights])
    _compare(model, exported, path)
    return model


def write_run(path, run, *, command):
    """Writes the folder of a finished run with what `from_onnx` finds, in the precision that the file's run had.

    Args:
        path: as for `from_onnx`.
        run: `runs.Run`, its folders made.
        command: the command line that did it, for run.json.

    Raises:
        UserError: as `from_onnx`.
    """
    exported, asked = open_file(path)
    keras.config.set_dtype_policy(asked.precision)
    model = from_onnx(path)
    spec, told = exported.spec, exported.spec.training
    with replacing(run.model) as beside:
        model.save(beside)
    run.write(
        {
            **{name: told[name] for name in ("title", "parts", "steps", DISTILLED) if name in told},
            "settings": told["settings"],
            "data": {**told.get("data", {}), "class_names": list(spec.class_names)},
            "command": command,
            "sessions": [],
            "restored": {"weights_sha256": spec.weights_sha256, "precision": spec.precision},
            **fitting.describe(model.network, model),
            "figures": [],
            "status": "finished",
        }
    )


class _Images:
    """What of the data a recipe's network depends on."""

    name = "a file's images"

    def __init__(self, spec, mean, std):
        self.image_shape, self.num_classes = spec.image_shape, spec.num_classes
        self._moments = mean, std

    def moments(self):
        """Mean and deviation of the pixels."""
        return self._moments


def _model(asked, spec, mean, std):
    """The model that such a run trains, for images of this mean and deviation."""
    recipe = asked.course
    network = building.network(recipe, _Images(spec, mean, std), width=asked.width)
    weighed = recipe.preconditioned and recipe.min_snr is None
    unguided = {"guidance_scale": 1.0} if spec.num_classes else {}  # where a file says nothing
    return DiffusionModel(
        network,
        spec.make_schedule(),
        prediction=spec.prediction,
        label_dropout=recipe.label_dropout,
        ema_decay=None,
        min_snr=recipe.min_snr,
        data_std=std if weighed else None,
        stratified=recipe.stratified,
        sampling={**unguided, **spec.defaults},
    )


def _layers(network):
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _make_recognizable(network):
    """Gives each weight that a file has numbers of its own, and BatchNorm those that folding leaves alone."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(size=weight.shape))
    for layer in _layers(network):
        if isinstance(layer, BatchNorm):
            for weight in (layer.bias, layer.moving_mean):
                weight.assign(np.zeros(weight.shape))
            layer.gamma.assign(np.ones(layer.gamma.shape))
            layer.moving_variance.assign(np.full(layer.gamma.shape, 1 - layer.epsilon))


def _slots(template, graph, path):
    """Pairs of arrays: what a template's graph has in a place, and what the file's graph has there.

    Raises:
        UserError: where the two graphs aren't alike.
    """
    network = convert.in_float32(template.network)
    own = _constants(denoiser.to_onnx(network, denoiser.signature(template)).graph)
    theirs = _constants(graph)
    alike = [kind for kind, _ in own] == [kind for kind, _ in theirs]
    pairs = [pair for (_, a), (_, b) in zip(own, theirs, strict=False) for pair in zip(a, b, strict=False)]  # fmt: skip
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not alike or any(a.shape != b.shape for a, b in pairs):
        raise UserError(
            f"{path}: expected the graph of {template.network.name} as this version exports it, got another"
        )
    return pairs


def _constants(graph):
    """Each node's kind and inputs, as arrays where they are known, on the way from the output back: an order that names and versions don't change."""
    known = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    makers = {}
    for node in graph.node:
        inputs = [known.get(name) for name in node.input]
        if node.op_type in _UNPACKING and all(array is not None for array in inputs):
            known[node.output[0]] = _UNPACKING[node.op_type](*inputs)
        makers[node.output[0]] = node
    found, seen, waiting = [], set(known), [graph.output[0].name]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        found.append((node.op_type, [known.get(given) for given in node.input]))
        waiting += reversed(node.input)
    return found


# How weights that are stored in fewer bits become numbers again (`smaller`).
_UNPACKING = {"Cast": lambda x: x.astype(np.float32), "Mul": lambda x, y: x * y}


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


def _compare(model, exported, path):
    """Whether the model's calls are the file's.

    Raises:
        UserError: where they aren't.
    """
    rng, count = np.random.default_rng(0), 4
    x = rng.normal(size=(count, *model.image_shape)).astype(np.float32)
    t = np.linspace(0.1, 1.0, count, dtype=np.float32)
    label = np.arange(count, dtype=np.int32) % (model.num_classes + 1)
    network = convert.in_float32(model.network)
    call = tf.function(lambda *inputs: model.denoise(*inputs, network=network))
    ours = call(x, t, label).numpy()
    theirs = exported.network(x, t, label)
    apart = float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    if not apart <= TOLERANCE:
        raise UserError(
            f"{path}: expected a network whose outputs are the file's, got one that is {apart:.2g} apart"
        )
