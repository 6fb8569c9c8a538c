"""A part of a graph that is computed only where it is needed: a refiner's, in the calls that it has a say in."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from keras_diffusion.exporting import graph

_SLACK = 1e-6  # of the time, for float32; where the part runs in vain it changes nothing


def where_due(model, *, plain, below):
    """A graph with an `If`: all that its output needs besides `plain` runs where an image's t is at most `below`.

    Args:
        model: `onnx.ModelProto` with an input t [N] and two outputs, the first of which is `plain` wherever t is larger.
        plain: name of the second output.
        below: t/T.

    Returns:
        `onnx.ModelProto` of the first output alone. What the part alone needs, its weights too, stands in the branch.
    """
    whole = model.graph
    out, _ = whole.output
    shared = _needed(whole, plain)
    inside = [node for node in whole.node if not shared.intersection(node.output)]
    outside = [node for node in whole.node if shared.intersection(node.output)]
    used = {name for node in outside for name in node.input}
    inner = [weight for weight in whole.initializer if weight.name not in used]
    outer = [weight for weight in whole.initializer if weight.name in used]
    limit = numpy_helper.from_array(np.float32(below * (1 + _SLACK)), "due_below")
    done, as_it_was = (_named(out, name) for name in ("out_refined", "out_plain"))
    then = helper.make_graph(
        [*inside, helper.make_node("Identity", [out.name], [done.name])],
        "refined",
        [],
        [done],
        initializer=inner,
    )
    otherwise = helper.make_graph(
        [helper.make_node("Identity", [plain], [as_it_was.name])], "plain", [], [as_it_was]
    )
    for node in then.node:  # `If` has the name outside
        graph.rename_in(node, lambda name: "out_inside" if name == out.name else name)
    nodes = [
        *outside,
        helper.make_node("ReduceMin", ["t"], ["due_least"], keepdims=0),
        helper.make_node("LessOrEqual", ["due_least", limit.name], ["due"]),
        helper.make_node("If", ["due"], [out.name], then_branch=then, else_branch=otherwise),
    ]
    made = helper.make_graph(nodes, whole.name, whole.input, [out], initializer=[*outer, limit])
    return graph.model(made, metadata={})


def _needed(whole, output):
    """The names of all that an output is computed from, and its own."""
    makers = {name: node for node in whole.node for name in node.output}
    found, waiting = set(), [output]
    while waiting:
        name = waiting.pop()
        if name not in found and name in makers:
            found.update(makers[name].output)
            waiting += makers[name].input
    return found


def _named(value, name):
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made
