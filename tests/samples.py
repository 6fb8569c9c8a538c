"""Small whole files of every kind that the programs read, and ways to damage them. Made without TensorFlow."""

import hashlib
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from keras_diffusion import imagefiles, settings
from keras_diffusion import spec as specs
from keras_diffusion.evaluation import sweep
from keras_diffusion.sampling import onnx_classifier
from keras_diffusion.schedules import linear_schedule

SIDE = 8
SHAPE = (SIDE, SIDE, 1)
DIGITS = [str(k) for k in range(10)]


# --- images


def arrays(count=20):
    """Keras's layout: x_train, y_train, x_test, y_test."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    return {"x_train": images, "y_train": labels, "x_test": images[:10], "y_test": labels[:10]}


def npz(**changes):
    """A FILE.npz as bytes; a change to None leaves an array out."""
    kept = {name: array for name, array in {**arrays(), **changes}.items() if array is not None}
    file = io.BytesIO()
    np.savez_compressed(file, **kept)
    return file.getvalue()


def npz_of(members, *, compression=zipfile.ZIP_DEFLATED):
    """A zip file as bytes, of names and bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array):
    """A .npy file as bytes, of whatever array: Python objects too, pickled."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_claiming(shape, descr="<f4", *, data=b"", header=None):
    """A .npy file whose header says what `data` needn't be."""
    header = header or repr({"descr": descr, "fortran_order": False, "shape": shape})
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def png(side=SIDE):
    """A grey picture as bytes."""
    return imagefiles.png(np.arange(side * side, dtype=np.uint8).reshape(side, side, 1))


def png_claiming(width, height, data=b"\x00"):
    """A .png whose header says what it likes, with so much compressed data."""
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# --- exported models


def spec(**changes):
    """What `denoiser` says of itself."""
    values = {
        "kind": "denoiser",
        "schedule": linear_schedule(30).to_config(),
        "prediction": "eps",
        "image_shape": SHAPE,
        "num_classes": 10,
        "class_names": tuple(DIGITS),
        "defaults": {"sampler": "ddim", "num_steps": 2, "guidance_scale": 2.0},
    }
    return json.loads(specs.Spec(**{**values, **changes}).to_json())


def denoiser(says=None, *, shape=SHAPE, factor=0.5, initializers=(), nodes=None, out=None):
    """An ONNX file as bytes: out = factor*x, which is a network like any other to what reads it.

    Args:
        says: text or fields of the spec; None is the right ones.
        nodes, initializers, out: in place of the graph's own.
    """
    makes = helper.make_tensor_value_info
    inputs = [
        makes("x", TensorProto.FLOAT, ["N", *shape]),
        makes("t", TensorProto.FLOAT, ["N"]),
        makes("label", TensorProto.INT32, ["N"]),
    ]
    own = [numpy_helper.from_array(np.float32(factor), "factor")]
    return _model(
        nodes or [helper.make_node("Mul", ["x", "factor"], ["out"])],
        inputs,
        [out or makes("out", TensorProto.FLOAT, ["N", *shape])],
        [*own, *initializers],
        {specs.KEY: says if isinstance(says, str) else json.dumps(says or spec())},
    )


def external(location, *, name="factor"):
    """A tensor that says that its numbers stand in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def with_external(location, place="initializer"):
    """A denoiser with a weight in another file: as an initializer, in an attribute, or in a branch of If."""
    model = onnx.load_from_string(denoiser())
    tensor = external(location)
    if place == "initializer":
        model.graph.initializer[0].CopyFrom(tensor)
        return model.SerializeToString()
    constant = helper.make_node("Constant", [], ["factor"], value=tensor)
    if place == "attribute":
        del model.graph.initializer[:]
        model.graph.node.insert(0, constant)
    if place == "branch":
        out = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [])
        branch = helper.make_graph([constant], "branch", [], [out])
        true = numpy_helper.from_array(np.bool_(True), "true")
        model.graph.initializer[0].CopyFrom(true)
        choice = helper.make_node(
            "If", ["true"], ["factor"], then_branch=branch, else_branch=branch
        )
        model.graph.node.insert(0, choice)
    return model.SerializeToString()


def judged(says=None, *, outputs=("logits", "features"), shape=SHAPE, classes=10, seed=0, opset=18):
    """A judge as bytes: its features are the first four numbers of an image."""
    makes, pixels = helper.make_tensor_value_info, int(np.prod(shape))
    weights = np.random.default_rng(seed).normal(size=(pixels, classes)).astype(np.float32)
    first = np.eye(pixels, 4, dtype=np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [outputs[0]]),
        helper.make_node("MatMul", ["flat", "first"], [outputs[1]]),
    ]
    return _model(
        nodes,
        [makes("x", TensorProto.FLOAT, ["N", *shape])],
        [makes(outputs[0], TensorProto.FLOAT, ["N", classes]), makes(outputs[1], TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(first, "first")],
        {onnx_classifier.KEY: says if isinstance(says, str) else json.dumps(says or judge_says())},
        opset,
    )  # fmt: skip


def judge_says(**changes):
    """What `judged` says of itself."""
    return {
        "format": onnx_classifier.FORMAT,
        "data": {"name": "digits"},
        "class_names": DIGITS,
        "image_shape": list(SHAPE),
        "test_accuracy": 0.5,
        "recipe": {},
        **changes,
    }


def joined(*files):
    """A judge as bytes that says that those were joined in it."""
    parts = [{"sha256": hashlib.sha256(file).hexdigest()} for file in files]
    return judged(judge_says(recipe={onnx_classifier.MEAN_OF: parts}), seed=1)


def _model(nodes, inputs, outputs, initializers, metadata, opset=18):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


# --- runs and sweeps


def record(**changes):
    """A run.json of a finished run."""
    return {
        "format": 1,
        "status": "finished",
        "title": "class-conditioned DDPM",
        "parts": ["2.5", "2.6"],
        "settings": settings.to_json(settings.resolve({"part": "2.5", "epochs": 1, "width": 8})),
        "data": {"name": "digits", "source": "d.npz", "train_count": 20, "sha256": "0" * 64, "class_names": DIGITS},
        "figures": [{"file": "figures/loss.png", "part": "2.5", "epoch": 1, "caption": "loss"}],
        "parameters": 12,
        "sessions": [{"machine": {"cpus": 2, "gpus": 0}}],
        "optimizer": {"config": {"learning_rate": 1e-3}},
        "label_dropout": 0.1,
        "ema_decay": 0.999,
        "steps": 1,
        "schedule": linear_schedule(30).to_config(),
        "prediction": "eps",
        **changes,
    }  # fmt: skip


METRICS = (
    "epoch,step,loss,learning_rate,images_per_second\n1,1,0.5,0.001,80.0\n1,2,0.4,0.001,0.05\n"
)


def swept(**changes):
    """A sweep.json."""
    rows = [
        {**way, "calls": 3, "accuracy": 0.9, "frechet": 1.0, "over_floor": 2.0}
        for way in sweep.grid(["ddim", "ddpm"], [3], ["uniform"], [1.0, 2.0], [(0.1, 0.9)])
    ]
    return {
        "format": sweep.FORMAT,
        "weights": "0" * 64,
        "judge": "1",
        "data": "2",
        "count": 10,
        "seed": 0,
        "floor": 0.5,
        "rows": rows,
        "best": {"5": rows[0]},
        **changes,
    }
