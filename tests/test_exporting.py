"""Exported files compute what the model does, and a file that doesn't is never left behind."""

import collections
import json
import types
from types import MappingProxyType
from unittest import mock

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from conftest import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    make_small,
    make_unet,
    one_line,
    roughen,
    under_policy,
)
from onnx import numpy_helper

import keras_diffusion as kd
from keras_diffusion import nn, noise, sampling
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import (
    convert,
    denoiser,
    graph,
    lite,
    parity,
    sampler,
    saved_model,
    smaller,
)
from keras_diffusion.sampling import guidance, onnx_model, portable, request

CPU = ["CPUExecutionProvider"]
FILES = ("denoiser.onnx", "sampler.onnx", "sampler_noise.onnx")


def make_model(network=None, schedule=None, **arguments):
    network = make_unet(num_classes=NUM_CLASSES) if network is None else network
    return kd.DiffusionModel(network, schedule or kd.linear_schedule(50), **arguments)


def export(model, folder, *, batches=MappingProxyType({2: 3}), **arguments):
    arguments = {"training": {"part": "2.5"}, "say": lambda line: None, **arguments}
    with mock.patch.object(parity, "BATCHES", batches):  # fewer comparisons than users get
        return convert.convert(model, folder, **arguments)


def session(path):
    return onnxruntime.InferenceSession(path, providers=CPU)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def small():
    """Of a network that is exported far sooner; for tests of what becomes of the files."""
    return make_model(make_small(), ema_decay=None)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A folder with everything, and its certificate."""
    folder = tmp_path_factory.mktemp("runs") / "new" / "export"
    certificate = export(
        model,
        folder,
        class_names=("a", "b", "c"),
        defaults={"sampler": "dpmpp_2m", "num_steps": 4, "guidance_scale": 3.0},
        also=("float16", "int8", "tflite"),
        batches=parity.BATCHES,
    )
    return folder, certificate


def whole(labels, *, scale=(1.0,), seed=5, rows=None):
    """Inputs of sampler.onnx."""
    return {
        "label": np.array(labels, np.int32),
        "index": noise.occurrence(labels),
        "seed": np.array(seed, np.int64),
        "guidance_scale": np.array(scale, np.float32),
        "rows": np.zeros((0, 9), np.float32) if rows is None else rows,
    }


# --- What is in the folder


@pytest.mark.parametrize("schedule", [kd.cosine_schedule(20), kd.flow_schedule(20)], ids=["cosine", "flow"])  # fmt: skip
def test_calls_are_compared_on_images_as_noisy_as_their_time_says(schedule):
    model = types.SimpleNamespace(schedule=schedule, image_shape=(64, 64, 1), num_classes=3)
    given = parity._inputs(model, 64)
    t = given["t"].astype(np.float64) * 20
    assert t[0] == 20 and t.min() > 0 and len(np.unique(np.round(t, 3))) > 10
    assert schedule.continuous or np.abs(t - np.round(t)).max() < 1e-5
    alpha, sigma = schedule.at(np.minimum(t, 20))
    x = given["x"]
    assert np.abs(x.mean(axis=(1, 2, 3)) - alpha / 2).max() < 0.1
    assert np.abs(x.var(axis=(1, 2, 3)) - (alpha**2 / 12 + sigma**2)).max() < 0.12


def test_folder(exported):
    folder, certificate = exported
    names = {path.name for path in folder.iterdir()}
    small = {f.replace(".onnx", f".{p}.onnx") for f in FILES for p in ("float16", "int8")}
    assert names == {"saved_model", "parity.json", "denoiser.tflite", *FILES, *small}
    assert json.loads((folder / "parity.json").read_text()) == certificate
    assert list(folder.parent.iterdir()) == [folder]


def test_a_refined_network_is_exported_whole(tmp_path):
    """What draws with it is compared with the Keras model in calls that its refiner acts in and others."""
    schedule = kd.linear_schedule(50)
    network = nn.with_refiner(make_small(), schedule, prediction="eps", below=20, width="copy")
    roughen(network.get_layer("refiner"), seed=3)
    defaults = {"sampler": "ddim", "spacing": [50, 40, 20], "guidance_scale": 2.0}
    model = make_model(network, schedule, ema_decay=None)
    certificate = export(model, tmp_path / "export", defaults=defaults, also=("int8",))
    drawn = [row for row in certificate["samples"] if row["sampler"] == "the file's own"]
    assert all(row[name] < 1e-4 for row in drawn for name in FILES) and len(drawn) == 1
    for name in FILES:
        found = onnx.load(tmp_path / "export" / name)
        onnx.checker.check_model(found, full_check=True)
        assert found.ir_version <= 9


@pytest.mark.parametrize("name", FILES)
def test_files_are_what_old_runtimes_read(exported, name):
    model = onnx.load(exported[0] / name)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def shapes(values):
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def test_names_and_free_sizes(exported):
    image = ["N", *IMAGE_SHAPE]
    kinds = onnx.TensorProto
    call = onnx.load(exported[0] / "denoiser.onnx").graph
    assert shapes(call.input) == {
        "x": (kinds.FLOAT, image),
        "t": (kinds.FLOAT, ["N"]),
        "label": (kinds.INT32, ["N"]),
    }
    assert shapes(call.output) == {"out": (kinds.FLOAT, image)}
    sampler = onnx.load(exported[0] / "sampler.onnx").graph
    assert shapes(sampler.input) == {
        "label": (kinds.INT32, ["N"]),
        "index": (kinds.INT64, ["N"]),
        "seed": (kinds.INT64, []),
        "guidance_scale": (kinds.FLOAT, ["G"]),
        "rows": (kinds.FLOAT, ["S", 9]),
    }
    assert shapes(sampler.output) == {"images": (kinds.FLOAT, image)}
    with_noise = onnx.load(exported[0] / "sampler_noise.onnx").graph
    assert set(shapes(with_noise.input)) == {"label", "x", "noise", "guidance_scale", "rows"}


def test_normalisation_and_gelu_are_folded(exported):
    nodes = collections.Counter(
        n.op_type for n in onnx.load(exported[0] / "denoiser.onnx").graph.node
    )
    assert nodes["BatchNormalization"] == 0
    assert nodes["Erf"] == nodes["Div"] == 22  # x/sqrt(2), as onnxruntime looks for it
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(exported[0].parent / "optimized.onnx")
    onnxruntime.InferenceSession(exported[0] / "denoiser.onnx", options, providers=CPU)
    fused = collections.Counter(
        n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node
    )
    (exported[0].parent / "optimized.onnx").unlink()
    assert fused["Gelu"] == 22 and fused["Erf"] == 0


def test_weights_belong_to_the_loop(exported):
    """Weights outside of the loop are slow weights."""
    main = onnx.load(exported[0] / "sampler.onnx").graph
    (loop,) = [node for node in main.node if node.op_type == "Loop"]
    body = loop.attribute[0].g
    inside = sum(numpy_helper.to_array(weight).size for weight in body.initializer)
    outside = sum(numpy_helper.to_array(weight).size for weight in main.initializer)
    assert inside > 20_000 and outside < 200


def test_spec_travels_inside(exported, model):
    spec = onnx_model.load(exported[0] / "sampler.onnx").spec
    assert (spec.kind, spec.num_classes, spec.class_names) == ("sampler", 3, ("a", "b", "c"))
    assert spec.schedule == model.schedule.to_config() and spec.training == {"part": "2.5"}
    assert spec.weights_sha256 == specs.weights_sha256(model.sampling_network.get_weights())
    assert onnx_model.load(exported[0] / "denoiser.int8.onnx").spec.precision == "int8"


# --- What they compute


def test_certificate(exported):
    _, certificate = exported
    assert [row["images"] for row in certificate["calls"]] == [1, 3, 64]
    drawn = collections.Counter(row["sampler"] for row in certificate["samples"])
    assert drawn == {"ddpm": 6, "ddim": 6, "dpmpp_2m": 3, "heun": 3, "the file's own": 1}
    for row in certificate["samples"]:
        assert {"saved_model", "denoiser.onnx", "sampler.onnx", "sampler_noise.onnx"} <= set(row)
        assert all(0 <= row[name] < 1e-4 for name in row if name.endswith((".onnx", "model")))


def test_tensorflow_lite(exported, model):
    folder, certificate = exported
    assert [row["images"] for row in certificate["tflite"]] == [1, 3, 64]
    assert all(row["denoiser.tflite"] < 1e-4 for row in certificate["tflite"])
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, *IMAGE_SHAPE)).astype(np.float32)
    t, label = rng.random(4).astype(np.float32), np.array([3, 0, 1, 2], np.int32)
    out = lite.call(folder / "denoiser.tflite", {"x": x, "t": t, "label": label})
    assert np.abs(out - model.denoise(x, t, label)).max() < 1e-4


def test_what_tensorflow_lite_lacks_is_refused(tmp_path):
    inputs = {"x": keras.Input(IMAGE_SHAPE, name="x")}
    network = keras.Model(inputs, keras.ops.erfinv(keras.ops.tanh(inputs["x"])))
    model = make_model(network, ema_decay=None)
    with pytest.raises(UserError) as error:
        lite.write(tmp_path / "a.tflite", saved_model.denoiser(network, model))
    assert "tflite: expected operations" in one_line(error) and list(tmp_path.iterdir()) == []


def test_averaged_weights_are_exported(tmp_path):
    model = make_model(make_small())
    roughen(model.ema_network, seed=1)  # differ from those that were trained
    export(model, tmp_path / "export")
    x, t = np.ones((2, *IMAGE_SHAPE), np.float32), np.array([0.2, 0.9], np.float32)
    label = np.array([0, 3], np.int32)
    out = onnx_model.load(tmp_path / "export" / "denoiser.onnx").network(x, t, label)
    assert np.abs(out - model.denoise(x, t, label)).max() < 1e-4
    assert np.abs(out - model.denoise(x, t, label, network=model.network)).max() > 1e-2


@pytest.mark.parametrize("scale", [[1.0], [4.0], [0.0], [1.0, 2.0, 3.0, 0.5, 7.0]])
def test_one_file_is_the_model(exported, model, scale):
    labels = np.array([0, 2, 2, 1, 3])  # 3: no class
    plan = sampling.plan(model.schedule, "eps", sampler="ddpm", num_steps=6)
    rows = portable.table(plan, guidance.weights(plan, (0.3, 0.8)))
    given = whole(labels, scale=scale, rows=rows)
    images = session(exported[0] / "sampler.onnx").run(["images"], given)[0]
    expected = model.sample(
        labels,
        sampler="ddpm",
        num_steps=6,
        guidance_scale=np.broadcast_to(np.array(scale), 5),
        guidance_interval=(0.3, 0.8),
        seed=5,
    )
    assert np.abs(images - expected).max() < 1e-4
    saved = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["sample"]
    saved = saved(**{name: tf.constant(value) for name, value in given.items()})["images"]
    assert np.abs(saved - expected).max() < 1e-4


def test_no_rows_are_the_default(exported, model):
    labels = np.array([0, 1, 2])
    expected = model.sample(labels, sampler="dpmpp_2m", num_steps=4, guidance_scale=3.0, seed=5)
    given = whole(labels, scale=[3.0])
    images = session(exported[0] / "sampler.onnx").run(["images"], given)[0]
    assert np.abs(images - expected).max() < 1e-4
    saved = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["sample"]
    saved = saved(**{name: tf.constant(value) for name, value in given.items()})["images"]
    assert np.abs(saved - expected).max() < 1e-4


def test_image_k_does_not_depend_on_the_others(exported):
    run = session(exported[0] / "sampler.onnx").run
    given = whole(np.array([1, 1, 0, 1]), scale=[3.0])
    images = run(["images"], given)[0]
    one = {**given, "label": given["label"][3:], "index": np.array([2])}
    assert np.abs(run(["images"], one)[0] - images[3:]).max() < 1e-6


def test_noise_of_ones_own(exported, model):
    """Zero noise of one number: DDPM with nothing but the start's noise."""
    plan = sampling.plan(model.schedule, "eps", sampler="ddpm", num_steps=5)
    labels = np.array([0, 2])
    asked = request.make(labels, image_shape=IMAGE_SHAPE, num_classes=3, seed=8)
    run = sampling.loop.runner(onnx_model.load(exported[0] / "denoiser.onnx").network, null_label=3)
    x, x0 = asked.noise(0), np.zeros((2, *IMAGE_SHAPE), np.float32)
    zeros = np.zeros((5, 1, 1, 1, 1), np.float32)
    weights = guidance.weights(plan)
    expected, _ = run(plan, x, x0, asked, weights=weights, noise=zeros)
    given = {
        "label": labels.astype(np.int32),
        "x": x,
        "noise": zeros,
        "guidance_scale": np.ones(1, np.float32),
        "rows": portable.table(plan, weights),
    }
    images = session(exported[0] / "sampler_noise.onnx").run(["images"], given)[0]
    assert np.abs(images - np.clip(expected, 0, 1)).max() < 1e-6


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda: make_unet(), {}),
        (lambda: make_unet(image_shape=(8, 12, 3), num_classes=3), {"prediction": "v"}),
        (
            lambda: make_unet(conditioning="multiply", num_classes=3),
            {"prediction": "flow", "schedule": kd.flow_schedule(20)},
        ),
    ],
    ids=["time only", "colour, v", "flow"],
)
def test_other_networks(make, arguments, tmp_path):
    model = make_model(make(), ema_decay=None, **arguments)
    certificate = export(model, tmp_path / "export")
    labels = [0, 0, 0] if model.num_classes == 0 else [0, 1, 2]
    exported = onnx_model.load(tmp_path / "export" / "sampler.onnx")
    defaults = convert.default_sampling(model)
    expected = model.sample(labels, seed=1, **defaults)
    assert np.abs(exported.sample(labels, seed=1) - expected).max() < 1e-4
    if model.schedule.is_flow:
        assert {row["sampler"] for row in certificate["samples"]} >= {"euler", "midpoint"}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_exported_in_float32(policy):
    network = under_policy(policy, lambda: make_unet(num_classes=NUM_CLASSES))
    plain = convert.in_float32(network)
    same = make_unet(num_classes=NUM_CLASSES)
    same.set_weights(network.get_weights())
    rng = np.random.default_rng(0)
    x = {
        "x": rng.normal(size=(3, *IMAGE_SHAPE)).astype(np.float32),
        "t": np.array([0.1, 0.5, 1.0], np.float32),
        "label": np.array([0, 2, 3], np.int32),
    }
    assert np.abs(plain(x) - same(x)).max() < 1e-5
    assert np.abs(network(x) - same(x)).max() > 1e-4
    specs = denoiser.signature(make_model(network, ema_decay=None))
    made = denoiser.to_onnx(plain, specs)
    out = onnxruntime.InferenceSession(made.SerializeToString(), providers=CPU).run(["out"], x)[0]
    assert np.abs(out - same(x)).max() < 1e-4


# --- Smaller files


def test_smaller_files(exported):
    folder, certificate = exported
    size = {p.name: p.stat().st_size for p in folder.glob("*.onnx")}
    assert size["denoiser.float16.onnx"] < 0.6 * size["denoiser.onnx"]
    assert size["denoiser.int8.onnx"] < 0.4 * size["denoiser.onnx"]
    assert [row["precision"] for row in certificate["smaller"]] == ["float16", "int8"]
    assert certificate["smaller"][0]["mean"] < certificate["smaller"][1]["mean"] < 0.005
    labels = [0, 1, 2]
    whole_file = onnx_model.load(folder / "sampler.int8.onnx").sample(labels)
    call = onnx_model.load(folder / "denoiser.int8.onnx").sample(labels)
    assert np.abs(whole_file - call).max() < 1e-4


def test_int8_rounds_each_channel_by_itself():
    g = graph.Graph("g")
    x = g.input("x", np.float32, ["N", 16])
    weights = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    weights *= 10.0 ** np.arange(8)  # one step for all would leave nothing of the first
    g.output(g.op("MatMul", x, weights), "out", ["N", 8])
    made = smaller.shrink(graph.model(g.build(), metadata={}), "int8")
    run = onnxruntime.InferenceSession(made.SerializeToString(), providers=CPU).run
    got = run(["out"], {"x": np.eye(16, dtype=np.float32)})[0]
    steps = np.abs(weights).max(axis=0) / 127
    assert (np.abs(got - weights) <= 0.5001 * steps).all()


def test_a_smaller_file_that_spoils_the_pictures_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "MEAN_TOLERANCE", 1e-7)
    with pytest.raises(UserError) as error:
        export(small, tmp_path / "export", also=("int8",))
    assert "int8: expected pixels that change by" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_smaller_samplers_are_compared_too(small, tmp_path, monkeypatch):
    real = smaller.shrink

    def spoiled(made, precision):
        made = real(made, precision)
        for node in made.graph.node:
            if node.op_type == "Loop":
                del node.attribute[0].g.initializer[:]  # unpacked weights stand for nothing
        return made

    def zeroed(made, precision):
        made = real(made, precision)
        loops = [node.attribute[0].g for node in made.graph.node if node.op_type == "Loop"]
        for weight in (weight for body in loops for weight in body.initializer):
            if weight.name.endswith("_stored"):
                array = numpy_helper.to_array(weight)
                weight.CopyFrom(numpy_helper.from_array(array * 0, weight.name))
        return made

    for spoil in (spoiled, zeroed):
        monkeypatch.setattr(smaller, "shrink", spoil)
        with pytest.raises(UserError) as error:
            export(small, tmp_path / "export", also=("float16",))
        assert "sampler.float16.onnx: expected" in one_line(error)
        assert list(tmp_path.iterdir()) == []


# --- What must not be left behind


def spoil_denoiser(monkeypatch):
    real = denoiser.to_onnx

    def spoiled(*arguments):
        made = real(*arguments)
        last = [node for node in made.graph.node if node.op_type == "Conv"][-1]
        weight = next(w for w in made.graph.initializer if w.name == last.input[1])
        array = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(array * 1.01, weight.name))
        return made

    monkeypatch.setattr(denoiser, "to_onnx", spoiled)


def spoil_saved_model(monkeypatch):
    ops = saved_model._OPS._replace(clip=lambda x: tf.clip_by_value(x, 0, 0.9))
    monkeypatch.setattr(saved_model, "_OPS", ops)


def spoil_default_rows(monkeypatch):
    real = sampler.to_onnx
    monkeypatch.setattr(sampler, "to_onnx", lambda c, s, rows, **k: real(c, s, rows * 0.9, **k))


def spoil_default_rows_of_saved_model(monkeypatch):
    real = saved_model.write
    monkeypatch.setattr(saved_model, "write", lambda f, n, m, rows: real(f, n, m, rows * 0.9))


def spoil_weights(monkeypatch):
    """Guidance everywhere."""
    real = portable.step

    def step(network, x, x0, label, scale, row, *rest, **options):
        return real(network, x, x0, label, scale, [*row[:-1], 1.0], *rest, **options)

    monkeypatch.setattr(portable, "step", step)


def spoil_seed(monkeypatch):
    real = portable.image_keys
    monkeypatch.setattr(portable, "image_keys", lambda seed, *rest: real(seed & noise.MASK, *rest))


def spoil_with_nan(monkeypatch):
    monkeypatch.setattr(parity, "_difference", lambda expected, got: float("nan"))


SPOILERS = [
    spoil_denoiser,
    spoil_saved_model,
    spoil_default_rows,
    spoil_default_rows_of_saved_model,
    spoil_weights,
    spoil_seed,
    spoil_with_nan,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_files_that_differ_are_not_left(small, tmp_path, monkeypatch, spoil):
    spoil(monkeypatch)
    with pytest.raises(UserError) as error:
        export(small, tmp_path / "export")
    assert "of what they are made of, got" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def own_network(activation):
    """A network with an operation of one's own."""
    inputs = {
        "x": keras.Input(IMAGE_SHAPE, name="x"),
        "t": keras.Input((), name="t", dtype="float32"),
    }
    h = keras.layers.Conv2D(4, 3, padding="same", activation=activation)(inputs["x"])
    h = h * keras.layers.Reshape((1, 1, 1))(inputs["t"])
    return keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(h))


def test_operations_that_onnx_lacks_are_refused(tmp_path):
    """Keras's exact GELU is Erfc, which tf2onnx writes into the file as it is."""
    model = make_model(own_network(keras.activations.gelu), ema_decay=None)
    with pytest.raises(UserError) as error:
        export(model, tmp_path / "export")
    assert "Erfc" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_loops_inside_a_network_are_refused():
    inputs = {"x": keras.Input(IMAGE_SHAPE, name="x")}
    rows = keras.layers.Reshape((8, 8))(inputs["x"])
    out = keras.layers.GRU(8, return_sequences=True)(rows)
    network = keras.Model(inputs, keras.layers.Reshape(IMAGE_SHAPE)(out))
    with pytest.raises(UserError) as error:
        denoiser.to_onnx(network, denoiser.signature(make_model(network, ema_decay=None)))
    assert "loops or branches" in one_line(error)


def test_a_mixed_network_that_was_rebuilt_wrong_is_seen(tmp_path, monkeypatch):
    wrong = make_small(seed=1)
    monkeypatch.setattr(convert, "in_float32", lambda network: wrong)
    with pytest.raises(UserError, match="of what they are made of"):
        export(make_model(make_small()), tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_layers_may_have_any_name():
    inputs = {"x": keras.Input(IMAGE_SHAPE, name="x")}
    h = keras.layers.Conv2D(2, 3, padding="same", name="mixed_a")(inputs["x"])
    network = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same", name="mixed_b")(h))
    assert convert.in_float32(network) is network


def test_a_denoiser_of_one_step_is_refused(tmp_path):
    network = make_unet(conditioning=None)
    model = make_model(network, kd.denoiser_schedule(), prediction="x0")
    with pytest.raises(UserError, match="one-step denoiser"):
        export(model, tmp_path / "export")


def test_a_network_of_ones_own(tmp_path):
    model = make_model(own_network("relu"), ema_decay=None)
    export(model, tmp_path / "export")
    exported = onnx_model.load(tmp_path / "export" / "denoiser.onnx")
    expected = model.sample(num_images=2, seed=3)
    assert np.abs(exported.sample([0, 0], seed=3) - expected).max() < 1e-4


def test_an_earlier_export_is_replaced(small, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "parity.json").write_text("{}")
    (folder / "old").write_text("")
    export(small, folder)
    assert not (folder / "old").exists() and (folder / "sampler.onnx").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_somebody_elses_is_not(model, tmp_path, kind):
    path = tmp_path / "export"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine").write_text("")
    with pytest.raises(UserError) as error:
        export(model, path)
    assert "expected a new folder" in one_line(error)
    assert list(tmp_path.iterdir()) == [path]
    assert path.is_file() or list(path.iterdir()) == [path / "mine"]


# --- The graph builder


def test_threefry_in_a_graph():
    g = graph.Graph("g")
    key = [g.input(name, np.int64, ["N"]) for name in ("k0", "k1")]
    words = noise.threefry(key, (np.arange(3), 7), noise.INT64)
    for k, word in enumerate(words):
        g.output(word, f"w{k}", ["N"])
    made = graph.model(g.build(), metadata={})
    run = onnxruntime.InferenceSession(made.SerializeToString(), providers=CPU).run
    keys = np.array([0, 2**32 - 1, 12345])
    got = run(["w0", "w1"], {"k0": keys, "k1": keys[::-1].copy()})
    wide = [keys.astype(np.uint32), keys[::-1].astype(np.uint32)]
    expected = noise.threefry(wide, (np.arange(3, dtype=np.uint32), np.uint32(7)))
    assert all((a == b).all() for a, b in zip(got, expected, strict=True))


def test_operators_of_a_graph():
    g = graph.Graph("g")
    a, b = (g.input(name, np.float32, ["N"]) for name in "ab")
    made = {"add": 1 + a, "sub": 2 - a, "mul": 3 * a, "both": (a - b) * (a + b)}
    for name, value in made.items():
        g.output(value, name, ["N"])
    n = g.input("n", np.int64, ["N"])
    g.output((n // 4) | (n & 6) ^ 1, "bits", ["N"])
    model = graph.model(g.build(), metadata={"who": "me"})
    assert {p.key: p.value for p in model.metadata_props} == {"who": "me"}
    x, y, m = np.array([0.5, 2], np.float32), np.array([3, 4], np.float32), np.array([9, 30])
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU).run
    got = dict(zip([*made, "bits"], run([*made, "bits"], {"a": x, "b": y, "n": m}), strict=True))
    assert np.allclose(got["add"], 1 + x) and np.allclose(got["sub"], 2 - x)
    assert np.allclose(got["mul"], 3 * x) and np.allclose(got["both"], x**2 - y**2)
    assert got["bits"].tolist() == [(v // 4) | (v & 6) ^ 1 for v in m.tolist()]
