"""A denoiser.onnx becomes the Keras model that it was made of, and a run."""

import functools
import json

import numpy as np
import onnx
import pytest
import samples
import tensorflow as tf
from conftest import one_line, roughen

import keras_diffusion as kd
from keras_diffusion import building, runs, settings
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import denoiser, restorable, smaller
from keras_diffusion.nn import refining
from keras_diffusion.sampling import onnx_model

SHAPE = (8, 8, 1)


class Images:
    """What a recipe's network depends on."""

    name, image_shape, num_classes = "squares", SHAPE, 3

    @staticmethod
    def moments():
        return 0.21, 0.37


REFINER = {"width": 6, "below": 100.0}
COPY = {"width": settings.COPY, "below": 100.0}


def trained(**given):
    """A model as fit.py trains it, no weight at its first value, and its settings; tests don't change it."""
    return _trained(json.dumps(given))


@functools.cache
def _trained(given):
    given = json.loads(given)
    refiner = given.pop("refiner", None)
    asked = settings.resolve({"width": 4, **given})
    model = building.uncompiled(asked.course, Images, width=4, ema_decay=None, refiner=refiner)
    rough(model.network)
    return model, asked


def rough(network):
    for layer in network.layers:
        if hasattr(layer, "layers"):
            rough(layer)
    roughen(network)


def export(model, asked, path, *, precision="float32", branches=True, **changes):
    """Writes its denoiser.onnx, without what convert.py compares."""
    told = {"settings": settings.to_json(asked), "title": "t", "parts": ["2.5"], "steps": 7}
    if refining.has_refiner(model.network):
        width = refining.width_of(model.network)
        told["distilled"] = {"refiner": {**REFINER, "width": width}}
    spec = specs.Spec(
        kind="denoiser",
        schedule=model.schedule.to_config(),
        prediction=model.prediction,
        image_shape=SHAPE,
        num_classes=model.num_classes,
        class_names=[f"class {k}" for k in range(model.num_classes)],
        defaults={"num_steps": 3},
        precision=precision,
        **{"training": told, **changes},
    )
    graph = onnx.ModelProto()
    graph.CopyFrom(_graph(model, precision, branches))
    onnx.helper.set_model_props(graph, {specs.KEY: spec.to_json()})
    onnx.save(graph, path)
    return path


@functools.cache
def _graph(model, precision, branches):
    if precision != "float32":
        return smaller.shrink(_graph(model, "float32", branches), precision)
    return denoiser.to_onnx(model.network, denoiser.signature(model), branches=branches)


RUNS = [
    ({"part": "2.2"}, "float32"),
    ({"part": "2.5"}, "float16"),
    ({"part": "2.2", "edition": "flow"}, "float32"),
    ({"part": "2.5", "recipe": "best"}, "int8"),
    ({"part": "2.5", "recipe": "best", "refiner": REFINER}, "int8"),
    ({"part": "2.5", "recipe": "best", "refiner": COPY}, "int8"),
]


@pytest.mark.parametrize(("given", "precision"), RUNS, ids=str)
def test_the_model_is_the_files(tmp_path, given, precision):
    model, asked = trained(**given)
    path = export(model, asked, tmp_path / "denoiser.onnx", precision=precision)
    again, file = kd.from_onnx(path), onnx_model.load(path)
    labels = {"labels": [0, 1, 2, 3]} if model.num_classes else {"num_images": 4}
    ours = again.sample(**labels, seed=5)
    np.testing.assert_allclose(ours, file.sample(**labels, seed=5), atol=1e-4)
    assert ours.std() > 0.02
    if precision == "float32":
        theirs = model.sample(**labels, seed=5, num_steps=3, guidance_scale=1.0)
        np.testing.assert_allclose(again.sample(**labels, seed=5, guidance_scale=1.0), theirs, atol=1e-4)  # fmt: skip
    for name in ("prediction", "data_std", "stratified", "label_dropout", "min_snr"):
        expected = getattr(model, name)
        assert getattr(again, name) == (pytest.approx(expected) if name == "data_std" else expected)
    if asked.recipe == "best":
        assert again.data_std == pytest.approx(Images.moments()[1])
    assert again.schedule.to_config() == model.schedule.to_config()
    assert again.sampling["num_steps"] == 3


def test_it_is_trained_on(tmp_path, images):
    model, asked = trained(part="2.5", recipe="best")
    again = kd.from_onnx(export(model, asked, tmp_path / "denoiser.onnx"))
    x0 = tf.constant(again.sample(np.arange(120) % 3, seed=9))
    labels = tf.constant(np.arange(120, dtype=np.int32) % 3)
    # What normalizes by its batch is what normalizes by what it has seen.
    losses = [
        float(again._loss(again.network, x0, labels, step=tf.constant(0, tf.int64), training=on))
        for on in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    again.compile(optimizer="adam")
    before = again.network.get_weights()
    first, *_, last = again.fit(*images, batch_size=24, epochs=40, verbose=0).history["loss"]
    assert last < first
    for weight, was in zip(again.network.weights, before, strict=True):
        cancelled = weight.path.endswith("_bn/bias")  # by BatchNorm
        assert cancelled == (weight.numpy() == was).all(), weight.path


def test_what_ships_becomes_a_run_that_draws_the_same(tmp_path, repo, python):
    def call(*words, status=0):
        done = python.run(*words, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done

    program = repo / "export" / "restore.py"
    assert call(program, "--out", "digits").stdout == "run: digits\n"
    draw = ("--labels", "0,7", "--per-label", "2", "--seed", "3", "--redraw", "0")
    call(repo / "scripts" / "sample.py", "digits", *draw[:-2], "--out", "ours.npy")
    call("-m", "keras_diffusion.sampling", *draw, "--out", "theirs.npy")
    ours, theirs = (np.load(tmp_path / name) for name in ("ours.npy", "theirs.npy"))
    assert np.abs(ours - theirs).mean() < 0.01  # the run's precision is bfloat16
    run, record = runs.finished(tmp_path / "digits")
    shipped = onnx_model.load().spec
    assert record["restored"] == {
        "weights_sha256": shipped.weights_sha256,
        "precision": shipped.precision,
    }
    assert record["settings"] == shipped.training["settings"] and record["sessions"] == []
    assert runs.class_names(record, 10) == list("0123456789")
    refused = call(program, "--out", "digits", status=2)
    assert (
        refused.stderr == "restore.py: --out: expected a new folder, got digits, which is there\n"
    )
    assert json.loads(run.record_file.read_text()) == record


def test_other_files_are_refused(tmp_path):
    model, asked = trained(part="2.5")
    path = tmp_path / "denoiser.onnx"
    (tmp_path / "judge.onnx").write_bytes(samples.judged(samples.judge_says()))
    with pytest.raises(UserError, match="expected a file that export/convert.py wrote"):
        kd.from_onnx(tmp_path / "judge.onnx")
    for told, message in (
        ({}, "expected a file of a run of fit.py or distill.py, got one without its settings"),
        ({"settings": {"part": "2.5"}}, "expected the settings of a run of fit.py"),
        ({"settings": settings.to_json(asked) | {"part": "9"}}, "got '9'"),
        ({"settings": settings.to_json(asked) | {"width": 8}}, "expected the graph of"),
        ({"settings": settings.to_json(asked) | {"recipe": "best"}}, "expected what its run's"),
    ):
        export(model, asked, path, training=told)
        with pytest.raises(UserError, match=message) as error:
            kd.from_onnx(path)
        assert str(path) in one_line(error)


def test_a_refused_file_leaves_no_folder(tmp_path, repo, python):
    model, asked = trained(part="2.5")
    told = {"settings": settings.to_json(asked) | {"recipe": "course", "width": 3}}
    export(model, asked, tmp_path / "other.onnx", training=told)
    program = repo / "export" / "restore.py"
    done = python.run(program, "other.onnx", "--out", "new", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "other.onnx: expected the graph of" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_a_file_that_claims_a_large_network_is_refused_before_one_is_made(tmp_path):
    model, asked = trained(part="2.5")
    told = {"settings": settings.to_json(asked) | {"width": 512}}
    path = export(model, asked, tmp_path / "denoiser.onnx", training=told)
    with pytest.raises(UserError, match="weights and more of a network of width 512, got"):
        restorable.open_file(path)


@pytest.mark.parametrize("field", ["data", "settings", "distilled"])
def test_what_a_file_says_of_its_training_is_checked(tmp_path, field):
    model, asked = trained(part="2.5")
    told = {"settings": settings.to_json(asked), field: ["text"]}
    path = export(model, asked, tmp_path / "denoiser.onnx", training=told)
    with pytest.raises(UserError, match=f"expected training.{field} to be an object"):
        restorable.open_file(path)


@pytest.mark.parametrize(
    "refiner",
    [
        6,
        {"width": 6},
        {"width": 10**4000, "below": 100},
        {"width": 6, "below": 10**400},
        {"width": 6, "below": 0},
        {"width": True, "below": 100},
        {"width": "sofa", "below": 100},
    ],
    ids=lambda told: repr(told)[:30],
)
def test_what_a_file_says_of_its_refiner_is_checked(tmp_path, refiner):
    model, asked = trained(part="2.5", recipe="best")
    told = {"settings": settings.to_json(asked), "distilled": {"refiner": refiner}}
    path = export(model, asked, tmp_path / "denoiser.onnx", training=told)
    with pytest.raises(UserError) as error:
        restorable.open_file(path)
    assert "refiner to be a width and a time in (0, 300], got" in one_line(error)


def test_a_refiner_of_a_file_without_branches_is_found(tmp_path):
    """As earlier commits wrote them."""
    model, asked = trained(part="2.5", recipe="best", refiner=REFINER)
    path = export(model, asked, tmp_path / "denoiser.onnx", branches=False)
    again = kd.from_onnx(path)
    refiners = (refining.parts(each.network)[2] for each in (again, model))
    for ours, theirs in zip(*(one.get_weights() for one in refiners), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("below", [15.0, 250.0])
def test_a_refiner_that_is_not_the_files_is_refused(tmp_path, below):
    """Where it acts stands in the graph as a number that looks like any other."""
    model, asked = trained(part="2.5", recipe="best", refiner={"width": 6, "below": 20.0})
    told = {"settings": settings.to_json(asked)}
    told["distilled"] = {"refiner": {"width": 6, "below": below}}
    path = export(model, asked, tmp_path / "denoiser.onnx", training=told)
    with pytest.raises(UserError, match="expected a network whose outputs are the file's"):
        kd.from_onnx(path)


def test_a_refiner_that_a_file_does_not_tell_of_is_refused(tmp_path):
    model, asked = trained(part="2.5", recipe="best", refiner={"width": 6, "below": 20.0})
    told = {"settings": settings.to_json(asked), "distilled": {}}
    path = export(model, asked, tmp_path / "denoiser.onnx", training=told)
    with pytest.raises(UserError, match="expected the graph of"):
        kd.from_onnx(path)


def test_a_network_for_images_of_no_contrast_is_refused(tmp_path):
    model, asked = trained(part="2.5", recipe="best")
    path = export(model, asked, tmp_path / "denoiser.onnx")
    file = onnx.load(path)
    for weight in file.graph.initializer:
        if np.array_equal(onnx.numpy_helper.to_array(weight), np.float32(0.37)):
            weight.CopyFrom(onnx.numpy_helper.from_array(np.float32(np.nan), weight.name))
    onnx.save(file, path)
    with pytest.raises(UserError, match="denoiser.onnx: expected what its run's settings say; std"):
        kd.from_onnx(path)


def test_a_network_that_computes_something_else_is_refused(tmp_path):
    """A graph may be alike and not the same; here another function stands where GELU was."""
    model, asked = trained(part="2.2")
    path = export(model, asked, tmp_path / "denoiser.onnx")
    file = onnx.load(path)
    (root,) = (
        weight
        for weight in file.graph.initializer
        if np.array_equal(onnx.numpy_helper.to_array(weight), np.float32(2**0.5))
    )
    root.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.2), root.name))
    onnx.save(file, path)
    with pytest.raises(UserError, match="expected a network whose outputs are the file's"):
        kd.from_onnx(path)
