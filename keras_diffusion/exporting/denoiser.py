"""The network as an ONNX model: one call of it, in inference form."""

import collections
import contextlib
import logging

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from keras_diffusion.errors import UserError
from keras_diffusion.exporting import branching, graph
from keras_diffusion.nn import blocks, refining

_INPUTS = {"t": tf.float32, "label": tf.int32}


def signature(model):
    """The inputs of a model's network, N free: dict of `tf.TensorSpec`."""
    specs = {"x": tf.TensorSpec((None, *model.image_shape), tf.float32, name="x")}
    for name, dtype in _INPUTS.items():
        if name in model.inputs_used:
            specs[name] = tf.TensorSpec((None,), dtype, name=name)
    return specs


def function(network, specs):
    """The network in inference form, as plain operations: a `tf.function` of its inputs to {"out"}."""

    def denoise(*inputs):
        with blocks.as_operations():
            return {"out": network(dict(zip(specs, inputs, strict=True)), training=False)}

    return tf.function(denoise, input_signature=list(specs.values()), autograph=False)


def to_onnx(network, specs, *, branches=True):
    """The network as an ONNX model: inputs x, t, label, as many as it has, and the output out.

    Args:
        network: functional Keras model in float32.
        specs: as `signature` gives them.
        branches: whether a refiner (`nn.with_refiner`) is computed only where one of the images is at a time at which it acts, and
            what a copy stands in place of only where one isn't.

    Returns:
        `onnx.ModelProto` of opset 18, without BatchNormalization where a convolution stands before it.

    Raises:
        UserError: where the network has operations that ONNX doesn't, named in the message.
    """
    if branches and refining.has_refiner(network):
        made = convert(_with_plain(network, specs), specs, ["out", "plain"], name="denoiser")
        _, estimates, _ = refining.parts(network)
        below = estimates.upper / estimates.schedule.num_train_steps
        copied = refining.width_of(network) == refining.COPY
        branch = branching.where_instead if copied else branching.where_due
        return branch(made, plain="plain", below=below)
    return convert(function(network, specs), specs, ["out"], name="denoiser")


def _with_plain(network, specs):
    """As `function`, at times at which its refiner acts; what the network puts out without it is a second output, plain."""

    def denoise(*inputs):
        with blocks.as_operations():
            plain, out = refining.both(network, dict(zip(specs, inputs, strict=True)))
            return {"out": out, "plain": plain}

    return tf.function(denoise, input_signature=list(specs.values()), autograph=False)


def convert(traced, specs, outputs, *, name):
    """A TensorFlow function as an ONNX model; the rest as `to_onnx`.

    Args:
        traced: `tf.function` of the inputs in `specs` to a dict.
        specs: dict of `tf.TensorSpec`.
        outputs: the names in that dict.
        name: of the graph.
    """
    import tf2onnx

    with _quiet():
        try:
            converted, _ = tf2onnx.convert.from_function(
                traced, input_signature=list(specs.values()), opset=graph.OPSET
            )
        except Exception as error:  # whatever a network of somebody's own brings out in tf2onnx
            reason = " ".join(str(error).split())
            raise UserError(
                f"network: expected one that tf2onnx can convert, got: {reason[:200]}"
            ) from None
    _check_operations(converted.graph)
    _fold_normalisation(converted.graph)
    _write_gelu_as_known(converted)
    _tidy(converted.graph, [*specs, *outputs], name)
    return graph.model(converted.graph, metadata={})


@contextlib.contextmanager
def _quiet():
    """tf2onnx logs what it can't convert, writes the file all the same and goes on; we look ourselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _check_operations(converted):
    """Whether every node is an operator of ONNX's own set, and none has a graph of its own inside."""
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
    inner = {
        node.op_type
        for node in converted.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
    }
    if inner:
        raise UserError(
            f"network: expected no loops or branches inside, got {', '.join(sorted(inner))}; unroll them"
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


def _write_gelu_as_known(model):
    """Writes 1 + erf(x*sqrt(1/2)) as 1 + erf(x/sqrt(2)), with a plain 1: a GELU with these is one kernel in onnxruntime.

    tf2onnx makes the 1 an array of one number where it has moved a transposition. Left as it is, a call takes a third
    longer.
    """
    converted = model.graph
    weights = {weight.name: weight for weight in converted.initializer}
    makers = {name: node for node in converted.node for name in node.output}
    ranks = _ranks(model)
    sqrt2, one = (
        numpy_helper.from_array(np.float32(value), name)
        for name, value in (("gelu_sqrt2", np.sqrt(2)), ("gelu_one", 1.0))
    )
    converted.initializer.extend([sqrt2, one])

    def others(node, value):
        """The input beside a constant of this value; None where the node has no such constant."""
        for constant, x in (node.input, reversed(node.input)):
            array = numpy_helper.to_array(weights[constant]) if constant in weights else None
            if array is not None and array.size == 1 and array.dtype == np.float32:
                return x if np.isclose(array, value).all() else None
        return None

    for node in converted.node:
        before = makers.get(node.input[0]) if node.op_type == "Erf" else None
        if before is not None and before.op_type == "Mul":
            x = others(before, np.sqrt(0.5))
            if x is not None and ranks.get(x) == ranks.get(before.output[0]) is not None:
                before.op_type, before.input[:] = "Div", [x, sqrt2.name]
        if node.op_type == "Add":
            x = others(node, 1.0)
            erf = makers.get(x)
            same = ranks.get(x) == ranks.get(node.output[0]) is not None
            if erf is not None and erf.op_type == "Erf" and same:
                node.input[:] = [x, one.name]


def _ranks(model):
    """Number of axes of every value whose shape is known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _tidy(converted, kept, name):
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
    converted.name = name
    converted.doc_string = ""
