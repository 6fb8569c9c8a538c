"""Parts of a graph that are computed only where they are needed: a refiner, in the calls that it has a say in."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from keras_diffusion.exporting import graph

_SLACK = 1e-6  # of the time, for float32: no step is at a time between


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
    limit = _limit(below)
    parts = _Parts(whole, [_needed(whole, out.name) - shared])
    nodes = [
        *parts.outside,
        helper.make_node("ReduceMin", ["t"], ["due_least"], keepdims=0),
        helper.make_node("LessOrEqual", ["due_least", limit.name], ["due"]),
        parts.branch(0, "due", out, out.name, otherwise=plain),
    ]
    return _model(whole, nodes, [*parts.outer, limit], out)


def where_instead(model, *, plain, below):
    """A graph with two `If`s: its first output where t is at most `below`, the second elsewhere, each computed where an image needs it.

    Args, Returns: as for `where_due`, but that the first output is anything where t is larger, and there is an input x of its shape.
    """
    whole = model.graph
    out, other = whole.output
    limit = _limit(below)
    column = numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "due_column")
    late, early = (_needed(whole, name) for name in (out.name, plain))
    parts = _Parts(whole, [late - early, early - late])
    nodes = [
        *parts.outside,
        helper.make_node("ReduceMin", ["t"], ["due_least"], keepdims=0),
        helper.make_node("LessOrEqual", ["due_least", limit.name], ["due"]),
        helper.make_node("ReduceMax", ["t"], ["due_most"], keepdims=0),
        helper.make_node("Greater", ["due_most", limit.name], ["undue"]),
        parts.branch(0, "due", out, "due_out", otherwise="x"),
        parts.branch(1, "undue", other, "undue_out", otherwise="x"),
        helper.make_node("LessOrEqual", ["t", limit.name], ["due_each"]),
        helper.make_node("Reshape", ["due_each", column.name], ["due_images"]),
        helper.make_node("Where", ["due_images", "due_out", "undue_out"], [out.name]),
    ]
    return _model(whole, nodes, [*parts.outer, limit, column], out)


class _Parts:
    """A graph's nodes and weights: those of some branches, and those outside.

    Args:
        whole: `onnx.GraphProto`.
        computed: for each branch the names that are computed in it alone.
    """

    def __init__(self, whole, computed):
        self.inside = [[n for n in whole.node if names.intersection(n.output)] for names in computed]  # fmt: skip
        every = set().union(*computed)
        self.outside = [node for node in whole.node if not every.intersection(node.output)]
        used = [{name for node in nodes for name in node.input} for nodes in (*self.inside, self.outside)]  # fmt: skip
        places = [[k for k, names in enumerate(used) if w.name in names] for w in whole.initializer]
        pairs = list(zip(whole.initializer, places, strict=True))
        self.outer = [w for w, used_by in pairs if used_by not in ([k] for k in range(len(computed)))]  # fmt: skip
        self.inner = [[w for w, used_by in pairs if used_by == [k]] for k in range(len(computed))]

    def branch(self, k, condition, value, name, *, otherwise):
        """An `If`: a branch's `value` (`ValueInfoProto`) as `name` where the condition holds, another value elsewhere."""
        found, other = (_named(value, f"{name}_{word}") for word in ("found", "otherwise"))
        then = helper.make_graph(
            [*self.inside[k], helper.make_node("Identity", [value.name], [found.name])],
            f"{name}_due",
            [],
            [found],
            initializer=self.inner[k],
        )
        within = {made for node in self.inside[k] for made in node.output}
        for node in then.node:  # names that stand outside too
            graph.rename_in(node, lambda was: f"{was}_inside" if was == value.name and was in within else was)  # fmt: skip
        plain = helper.make_graph(
            [helper.make_node("Identity", [otherwise], [other.name])], f"{name}_undue", [], [other]
        )
        return helper.make_node("If", [condition], [name], then_branch=then, else_branch=plain)


def _limit(below):
    return numpy_helper.from_array(np.float32(below * (1 + _SLACK)), "due_below")


def _model(whole, nodes, weights, out):
    made = helper.make_graph(nodes, whole.name, whole.input, [out], initializer=weights)
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
