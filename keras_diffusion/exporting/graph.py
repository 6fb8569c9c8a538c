"""An ONNX graph written down by running code: operators on a `Value` add nodes."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # what onnxruntime 1.14, the first with opset 18, reads


class Graph:
    """A graph under construction.

    Args:
        name: of the graph, and the beginning of its values' names.
        depth: in how many loops it is.
    """

    def __init__(self, name, *, depth=0):
        self.name, self.depth = name, depth
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []
        self._constants, self._count = {}, 0

    def input(self, name, dtype, shape):
        """A graph input; strings in `shape` are free sizes."""
        self.inputs.append(_info(name, dtype, shape))
        return Value(self, name, np.dtype(dtype))

    def output(self, value, name, shape):
        """Makes a value an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name]))
        self.outputs.append(_info(name, value.dtype, shape))

    def constant(self, array):
        """A value that doesn't change."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._name("constant")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = Value(self, name, array.dtype)
        return self._constants[key]

    def op(self, kind, *inputs, dtype=None, **attributes):
        """Adds a node with one output.

        Args:
            kind: ONNX operator.
            inputs: values, or arrays that become constants.
            dtype: of the output; None is the first input's.
            attributes: of the node.
        """
        values = [given if isinstance(given, Value) else self.constant(given) for given in inputs]
        out = Value(self, self._name(kind), np.dtype(dtype or values[0].dtype))
        names = [value.name for value in values]
        self.nodes.append(helper.make_node(kind, names, [out.name], **attributes))
        return out

    def loop(self, count, carried, build, shapes):
        """An ONNX Loop.

        Args:
            count: int64 value [], how often.
            carried: values that go from turn to turn.
            build: function (body, i, *carried) -> values for the next turn; the body may use this graph's values.
            shapes: of the carried values.

        Returns:
            The carried values after the last turn.
        """
        body = Graph(self._name("loop"), depth=self.depth + 1)
        i = body.input(f"{body.name}_i", np.int64, [])
        go_on = body.input(f"{body.name}_condition", np.bool_, [])
        inner = [
            body.input(f"{body.name}_in_{k}", value.dtype, shape)
            for k, (value, shape) in enumerate(zip(carried, shapes, strict=True))
        ]
        after = build(body, i, *inner)
        body.output(go_on, f"{body.name}_go_on", [])
        for k, (value, shape) in enumerate(zip(after, shapes, strict=True)):
            body.output(value, f"{body.name}_out_{k}", shape)
        outs = [Value(self, self._name("after"), value.dtype) for value in carried]
        always = self.constant(np.array(True))
        self.nodes.append(
            helper.make_node(
                "Loop",
                [count.name, always.name, *(value.name for value in carried)],
                [value.name for value in outs],
                body=body.build(),
            )
        )
        return outs

    def inline(self, model, inputs, *, prefix):
        """Puts another model's nodes and weights into this graph.

        Args:
            model: `onnx.ModelProto` whose outputs are float32.
            inputs: dict of its inputs' names to values.
            prefix: goes before all its names.

        Returns:
            Dict of its outputs' names to values.
        """
        renamed = {name: value.name for name, value in inputs.items()}

        def rename(name):
            return renamed.get(name, prefix + name) if name else name

        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            rename_in(copy, rename)
            self.nodes.append(copy)
        for weight in model.graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(weight)
            copy.name = rename(weight.name)
            self.initializers.append(copy)
        return {
            out.name: Value(self, rename(out.name), np.dtype(np.float32))
            for out in model.graph.output
        }

    def build(self):
        """The graph as `onnx.GraphProto`."""
        return helper.make_graph(
            self.nodes, self.name, self.inputs, self.outputs, initializer=self.initializers
        )

    def _name(self, kind):
        self._count += 1
        return f"{self.name}_{kind.lower()}_{self._count}"


def rename_in(node, rename):
    """Gives what goes into a node and comes out of it other names, within its branches too."""
    node.input[:], node.output[:] = map(rename, node.input), map(rename, node.output)
    node.name = rename(node.name)
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        for inner in attribute.g.node:
            rename_in(inner, rename)
        for value in (*attribute.g.initializer, *attribute.g.output):
            value.name = rename(value.name)


class Value:
    """A value of a graph. Operators take values, arrays and numbers, which become of this value's dtype.

    A node goes into the graph of its innermost operand: what doesn't change in a loop stays outside of it.
    """

    __array_ufunc__ = None  # an array on the left leaves the operator to us

    def __init__(self, graph, name, dtype):
        self.graph, self.name, self.dtype = graph, name, dtype

    def _op(self, kind, other, *, swapped=False, dtype=None):
        graph = self.graph
        if isinstance(other, Value):
            graph = max(graph, other.graph, key=lambda g: g.depth)
        else:
            other = graph.constant(np.asarray(other, self.dtype))
        pair = (other, self) if swapped else (self, other)
        return graph.op(kind, *pair, dtype=dtype)

    def __add__(self, other):
        return self._op("Add", other)

    def __radd__(self, other):
        return self._op("Add", other, swapped=True)

    def __sub__(self, other):
        return self._op("Sub", other)

    def __rsub__(self, other):
        return self._op("Sub", other, swapped=True)

    def __mul__(self, other):
        return self._op("Mul", other)

    def __rmul__(self, other):
        return self._op("Mul", other, swapped=True)

    def __floordiv__(self, other):
        return self._op("Div", other)  # of integers that aren't negative

    def __and__(self, other):
        return self._op("BitwiseAnd", other)

    def __or__(self, other):
        return self._op("BitwiseOr", other)

    def __xor__(self, other):
        return self._op("BitwiseXor", other)

    def cast(self, dtype):
        """As another type."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.graph.op("Cast", self, dtype=dtype, to=to)


def model(graph, *, metadata):
    """A whole model, checked.

    Args:
        graph: `onnx.GraphProto`.
        metadata: dict of texts that travel with it.

    Raises:
        onnx.checker.ValidationError: where it isn't valid.
    """
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="keras-diffusion",
    )
    helper.set_model_props(made, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made


def _info(name, dtype, shape):
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )
