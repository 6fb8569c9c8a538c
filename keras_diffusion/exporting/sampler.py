"""sampler.onnx: the whole sampler as one ONNX graph, a Loop around the network, its noise made inside.

The network's weights are constants of the loop's body: captured from outside, onnxruntime wouldn't bring them into the
layout that its fast convolutions want.
"""

import functools

import numpy as np

from keras_diffusion import noise
from keras_diffusion import spec as specs
from keras_diffusion.exporting import graph
from keras_diffusion.sampling import portable


def to_onnx(denoiser, spec, rows, *, own_noise):
    """The sampler around a network.

    Args:
        denoiser: `onnx.ModelProto` of one call.
        spec: `Spec` of the file to be made.
        rows: float32 [S, 9], the table that is used where none is given.
        own_noise: whether the noise is given in place of a seed.

    Returns:
        `onnx.ModelProto`. Inputs, all required: label int32 [N]; index int64 [N] and seed int64 [], or x [N, H, W, C] and
        noise [S, N, H, W, C] (sizes of 1 after S broadcast); guidance_scale float32 [N] or [1]; rows float32 [S, 9] or [0, 9].
        Output: images float32 [N, H, W, C] in [0, 1].
    """
    g = graph.Graph("sampler")
    shape = list(spec.image_shape)
    label = g.input("label", np.int32, ["N"])
    if own_noise:
        x = g.input("x", np.float32, ["N", *shape])
        given = g.input("noise", np.float32, ["R", "M", *[f"image{k}" for k in range(3)]])
    else:
        index, seed = g.input("index", np.int64, ["N"]), g.input("seed", np.int64, [])
        keys = portable.image_keys(seed, label.cast(np.int64), index)
        x = portable.normal(keys, draw=g.constant(np.int64(0)), shape=shape, ops=_ops(g))
    scale = _for_each(g.input("guidance_scale", np.float32, ["G"]), label)
    table = _with_default(g, g.input("rows", np.float32, ["S", len(portable.COLUMNS)]), rows)

    def turn(body, i, x, x0):
        ops = _ops(body)
        row = [_number(body, table, i, k) for k in range(len(portable.COLUMNS))]
        if own_noise:
            fresh = body.op("Gather", given, i, axis=0)
        else:
            fresh = portable.normal(keys, draw=i + 1, shape=shape, ops=ops)
        network = functools.partial(_call, body, denoiser)
        return portable.step(
            network, x, x0, label, scale, row, fresh, null_label=spec.num_classes, ops=ops
        )

    count = g.op("Size", g.op("Gather", table, np.int64(0), axis=1), dtype=np.int64)
    shapes = [["N", *shape]] * 2
    x, _ = g.loop(count, [x, x * 0.0], turn, shapes)
    g.output(_ops(g).clip(x), "images", ["N", *shape])
    return graph.model(g.build(), metadata={specs.KEY: spec.to_json()})


def _call(body, denoiser, x, t, label):
    given = {"x": x, "t": t, "label": label}
    inputs = {i.name: given[i.name] for i in denoiser.graph.input}
    return body.inline(denoiser, inputs, prefix="network_")["out"]


def _for_each(scale, label):
    """One number for each image, from one for all or one for each."""
    ones = (label * 0).cast(np.float32) + 1.0
    return scale * ones


def _with_default(g, rows, default):
    """The rows that were given, or the default where there are none: it is cut to nothing where there are some."""
    default = g.constant(np.asarray(default, np.float32))
    count = g.op("Shape", rows, dtype=np.int64, start=0, end=1)
    none = g.op("Cast", g.op("Equal", count, np.array([0]), dtype=np.bool_), dtype=np.int64, to=7)
    size = g.op("Shape", default, dtype=np.int64, start=0, end=1)
    kept = g.op("Slice", default, np.array([0]), none * size, np.array([0]))
    return g.op("Concat", rows, kept, axis=0)


def _number(body, table, i, column):
    """One number of the table."""
    row = body.op("Gather", table, i, axis=0)
    return body.op("Gather", row, np.int64(column), axis=0)


def _ops(g):
    """`portable.Ops` that add nodes to a graph."""

    def any_other(x, value):
        differs = g.op("Abs", x - value)
        most = g.op("ReduceMax", differs, keepdims=1)
        return g.op("Greater", most, np.float32(0), dtype=np.bool_).cast(np.int64)

    def part(x, begin, end):
        begin = np.array([begin]) if isinstance(begin, int) else begin
        return g.op("Slice", x, begin, end, np.array([0]))

    def images(a, b, shape):
        pair = [g.op("Unsqueeze", x.cast(np.float32), np.array([2])) for x in (a, b)]
        flat = g.op("Flatten", g.op("Concat", *pair, axis=2), axis=1)
        size = int(np.prod(shape))
        flat = g.op("Slice", flat, np.array([0]), np.array([size]), np.array([1]))
        return g.op("Reshape", flat, np.array([-1, *shape]))

    return portable.Ops(
        maths=noise.Maths(
            real=lambda a: a.cast(np.float64),
            log=functools.partial(g.op, "Log"),
            sqrt=functools.partial(g.op, "Sqrt"),
            sin=functools.partial(g.op, "Sin"),
        ),
        count=lambda x: g.op("Shape", x, dtype=np.int64),
        any_other=any_other,
        part=part,
        concat=lambda a, b: g.op("Concat", a, b, axis=0),
        fill=lambda value, count: g.op("Expand", value, count),
        column=lambda x: g.op("Unsqueeze", x, np.array([1])),
        per_image=lambda x: g.op("Unsqueeze", x, np.array([1, 2, 3])),
        images=images,
        clip=lambda x: g.op("Clip", x, np.float32(0), np.float32(1)),
    )
