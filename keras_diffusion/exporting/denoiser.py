"""The network as an ONNX model: one call of it, in inference form."""

import collections
import contextlib
import logging

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from keras_diffusion.errors import UserError
from keras_diffusion.exporting import graph
from keras_diffusion.nn import blocks

_INPUTS = {"t": tf.float32, "label": tf.int32}


def signature(model):
    """The inputs of a model's network, N free: dict of `tf.TensorSpec`."""
    specs = {"x": tf.TensorSpec((None, *model.image_shape), tf.float32, name="x")}
    for name, dtype in _INPUTS.items():
        if name in model.inputs_used:
            specs[name] = tf.TensorSpec((None,), dtype, name=name)
    return specs


def to_onnx(network, specs):
    """The network as an ONNX model: inputs x, t, label, as many as it has, and the output out.

    Args:
        network: functional Keras model in float32.
        specs: as `signature` gives them.

    Returns:
        `onnx.ModelProto` of opset 18, without BatchNormalization where a convolution stands before it.

    Raises:
        UserError: where the network has operations that ONNX doesn't, named in the message.
    """
    import tf2onnx

    names = list(specs)

    def denoise(*inputs):
        with blocks.as_operations():
            return {"out": network(dict(zip(names, inputs, strict=True)), training=False)}

    listed = [specs[name] for name in names]
    traced = tf.function(denoise, input_signature=listed, autograph=False)
    with _quiet():
        converted, _ = tf2onnx.convert.from_function(
            traced, input_signature=listed, opset=graph.OPSET
        )
    _check_operations(converted.graph)
    _fold_normalisation(converted.graph)
    _write_gelu_as_known(converted.graph)
    _tidy(converted.graph, [*names, "out"])
    return graph.model(converted.graph, metadata={})


@contextlib.contextmanager
def _quiet():
    """tf2onnx logs what it can't convert, writes the file all the same and goes on; we look ourselves."""
    logger = logging.getLogger("tf2onnx")
    before, logger.disabled = logger.level, True
    children = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.startswith("tf2onnx")
    ]
    levels = [child.level for child in children]
    for child in children:
        child.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.level, logger.disabled = before, False
        for child, level in zip(children, levels, strict=True):
            child.setLevel(level)


def _check_operations(converted):
    """Whether every node is an operator of ONNX's own set."""
    unknown = sorted(
        {
            node.op_type
            for node in converted.node
            if node.domain or not onnx.defs.has(node.op_type, graph.OPSET)
        }
    )
    if unknown:
        raise UserError(
            f"network: expected operations that ONNX has, got TensorFlow's {', '.join(unknown)}; write them in others"
        )


def _fold_normalisation(converted):
    """BatchNormalization behind a transposed convolution goes into its weights; tf2onnx has done so behind the others."""
    weights = {weight.name: weight for weight in converted.initializer}
    makers = {name: node for node in converted.node for name in node.output}
    users = collections.Counter(name for node in converted.node for name in node.input)
    for node in [node for node in converted.node if node.op_type == "BatchNormalization"]:
        before = makers.get(node.input[0])
        known = all(name in weights for name in node.input[1:])
        if (
            not known
            or before is None
            or before.op_type != "ConvTranspose"
            or len(before.input) > 2
        ):
            continue
        grouped = any(a.name == "group" and a.i != 1 for a in before.attribute)
        if grouped or users[node.input[0]] > 1 or before.input[1] not in weights:
            continue
        gamma, beta, mean, variance = (
            numpy_helper.to_array(weights[name]).astype(np.float64) for name in node.input[1:]
        )
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + epsilon)
        kernel = numpy_helper.to_array(weights[before.input[1]])  # [in, out, H, W]
        named = f"{before.output[0]}_folded"
        for suffix, array in (
            ("_kernel", kernel * factor[:, None, None]),
            ("_bias", beta - mean * factor),
        ):
            converted.initializer.append(
                numpy_helper.from_array(array.astype(np.float32), named + suffix)
            )
        before.input[:] = [before.input[0], f"{named}_kernel", f"{named}_bias"]
        before.output[0] = node.output[0]
        converted.node.remove(node)


def _write_gelu_as_known(converted):
    """Writes GELU as onnxruntime recognises it, 0.5*x*(1 + erf(x/sqrt(2))) in this order, and can make one kernel of.

    The network's own form, with its factors merged by TensorFlow, is left as nine passes over memory: a quarter of a call.
    """
    users = collections.defaultdict(list)
    makers = {name: node for node in converted.node for name in node.output}
    values = {weight.name: numpy_helper.to_array(weight) for weight in converted.initializer}
    for node in converted.node:
        for name in node.input:
            users[name].append(node)
    constants = {"gelu_sqrt2": np.sqrt(2), "gelu_one": 1.0, "gelu_half": 0.5}
    for name, value in constants.items():
        converted.initializer.append(numpy_helper.from_array(np.float32(value), name))
    for erf in [node for node in converted.node if node.op_type == "Erf"]:
        found = _gelu(erf, makers, users, values)
        if found is None:
            continue
        x, (scaled, plus, half, product) = found
        scaled.op_type, scaled.input[:] = "Div", [x, "gelu_sqrt2"]
        plus.input[:] = [erf.output[0], "gelu_one"]
        half.input[:] = [x, plus.output[0]]
        product.input[:] = [half.output[0], "gelu_half"]


def _gelu(erf, makers, users, values):
    """x and the nodes x/sqrt(2), 1 + erf, half of that, and times x, around an Erf; None where they aren't there."""

    def other(node, name):
        return next((i for i in node.input if i != name), None)

    def only(name, kind):
        found = users[name]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    def is_near(name, value):
        return name in values and values[name].size == 1 and np.allclose(values[name], value)

    scaled = makers.get(erf.input[0])
    if scaled is None or scaled.op_type != "Mul":
        return None
    x = next((i for i in scaled.input if i not in values), None)
    plus = only(erf.output[0], "Add")
    half = plus and only(plus.output[0], "Mul")
    product = half and only(half.output[0], "Mul")
    if (
        product is None
        or not is_near(other(scaled, x), np.sqrt(0.5))
        or not is_near(other(plus, erf.output[0]), 1.0)
        or not is_near(other(half, plus.output[0]), 0.5)
        or other(product, half.output[0]) != x
    ):
        return None
    return x, (scaled, plus, half, product)


def _tidy(converted, kept):
    """Short names but for inputs and output, one free size N, and no weight that nothing uses."""
    used = {name for node in converted.node for name in node.input}
    for weight in [weight for weight in converted.initializer if weight.name not in used]:
        converted.initializer.remove(weight)
    del converted.value_info[:]
    names = {name: name for name in kept}

    def short(name):
        return name and names.setdefault(name, f"v{len(names)}")

    for weight in converted.initializer:
        weight.name = short(weight.name)
    for k, node in enumerate(converted.node):
        node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
        node.name = f"n{k}"
        node.doc_string = ""
    for info in (*converted.input, *converted.output):
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    converted.name = "denoiser"
    converted.doc_string = ""
