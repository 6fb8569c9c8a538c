"""Smaller files: weights stored in 16 or 8 bits and computed with in float32, as onnxruntime unpacks them when it loads."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}  # output axis of the weights
_LEAST = 64  # numbers; smaller tensors stay as they are


def shrink(model, precision):
    """A model with its weights stored in fewer bits.

    Args:
        model: `onnx.ModelProto`.
        precision: "float16", or "int8": a step of its own for each output channel, the largest weight at 127.

    Returns:
        `onnx.ModelProto`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for graph in graphs(made.graph):
        _shrink(graph, _STORE[precision])
    onnx.checker.check_model(made, full_check=True)
    return made


def graphs(graph):
    """A graph and those within it, in each other too."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def _shrink(graph, store):
    axes = {
        node.input[1]: _CHANNELS[node.op_type] for node in graph.node if node.op_type in _CHANNELS
    }
    unpacking, kept = [], []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        if weight.name not in axes or array.size < _LEAST or array.dtype != np.float32:
            kept.append(weight)
            continue
        stored, nodes = store(weight.name, array, axes[weight.name])
        kept += stored
        unpacking += nodes
    nodes = [*unpacking, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _store_float16(name, array, axis):
    stored = numpy_helper.from_array(array.astype(np.float16), f"{name}_stored")
    cast = helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)
    return [stored], [cast]


def _store_int8(name, array, axis):
    others = tuple(k for k in range(array.ndim) if k != axis)
    most = np.abs(array).max(axis=others, keepdims=True)
    step = np.where(most > 0, most / 127, 1).astype(np.float32)
    stored = numpy_helper.from_array(np.round(array / step).astype(np.int8), f"{name}_stored")
    steps = numpy_helper.from_array(step, f"{name}_step")
    return [stored, steps], [
        helper.make_node("Cast", [stored.name], [f"{name}_whole"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", steps.name], [name]),
    ]


_STORE = {"float16": _store_float16, "int8": _store_int8}
