"""Redrawing: which images are drawn again and which of the two stays, in every sampler, file and program alike."""

import json
import sys

import numpy as np
import pytest
import samples
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_small, make_unet

import keras_diffusion as kd
from keras_diffusion import noise
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import convert
from keras_diffusion.sampling import __main__ as command
from keras_diffusion.sampling import onnx_model, redrawing, request

LABELS = np.array([0, 1, 1, 2, 3, 0, 2, 2])  # 3: no class
WAY = {"sampler": "ddim", "eta": 0.5, "num_steps": 4, "guidance_scale": 2.0}
NAMES = ("0", "1", "2")


def by_brightness(images):
    """A reader that takes the mean of an image for how sure it is, whatever the class."""
    mean = images.mean(axis=(1, 2, 3))
    return np.repeat(mean[:, None], NUM_CLASSES, axis=1)


# ---- the choice


def flat(*levels):
    return np.array(levels, np.float32)[:, None, None, None] * np.ones(IMAGE_SHAPE, np.float32)


def test_the_doubted_are_drawn_again_and_the_better_stays():
    asked = []

    def again(chosen):
        asked.append(chosen)
        return flat(0.9, 0.0, 0.6, 0.9)[: len(chosen)]

    redraw = redrawing.Redraw(by_brightness, 0.5, NUM_CLASSES)
    images = flat(0.1, 0.7, 0.3, 0.2, 0.1)
    better = redraw.better(images, np.array([0, 1, 2, 0, 3]), again)
    # Images 0, 2 and 3 are in doubt; of 2 the first draw is the better one.
    assert [chosen.tolist() for chosen in asked] == [[0, 2, 3]]
    np.testing.assert_array_equal(better, flat(0.9, 0.7, 0.3, 0.6, 0.1))
    np.testing.assert_array_equal(images, flat(0.1, 0.7, 0.3, 0.2, 0.1))


def test_for_a_compiled_loop_there_are_few_sizes():
    asked = []
    redraw = redrawing.Redraw(by_brightness, 0.5, NUM_CLASSES, round_up=True)
    better = redraw.better(
        flat(0.1, 0.2, 0.3),
        np.array([0, 1, 2]),
        lambda some: (asked.append(some), flat(0.9, 0.8, 0.7, 0.6))[1],
    )
    assert [chosen.tolist() for chosen in asked] == [[0, 1, 2, 0]]
    np.testing.assert_array_equal(better, flat(0.9, 0.8, 0.7))


def test_nothing_is_drawn_again_without_doubt():
    redraw = redrawing.Redraw(by_brightness, 0.5, NUM_CLASSES)
    images = flat(0.6, 0.5)
    assert redraw.better(images, np.array([0, 1]), None) is images


def test_the_probability_is_that_of_the_class_that_was_asked_for():
    redraw = redrawing.Redraw(lambda images: np.tile([0.8, 0.1, 0.1], (len(images), 1)), 0.5, 3)
    seen = []
    redraw.better(
        flat(0, 0, 0), np.array([0, 1, 2]), lambda some: (seen.append(some), flat(0, 0))[1]
    )
    assert seen[0].tolist() == [1, 2]


# ---- the samplers


@pytest.fixture(scope="module")
def model():
    return kd.DiffusionModel(make_small(), kd.linear_schedule(50))


def between(model, **asked):
    """A threshold that some of the first draws pass and some don't."""
    means = model.sample(LABELS, **WAY, **asked)[LABELS < NUM_CLASSES].mean(axis=(1, 2, 3))
    return float(np.sort(means)[3:5].mean())


def test_a_second_draw_is_another_seeds(model):
    below = between(model)
    first, second = (model.sample(LABELS, seed=s, **WAY) for s in (0, noise.again(0)))
    images = model.sample(LABELS, reader=by_brightness, redraw=below, **WAY)
    one, other = (some.mean(axis=(1, 2, 3)) for some in (first, second))
    again = (one < below) & (other > one) & (LABELS < NUM_CLASSES)
    assert 0 < again.sum() < len(LABELS)
    expected = np.where(again[:, None, None, None], second, first)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert np.abs(first - second).max() > 0.1


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """An export with its reader, whose classes are three of small images."""
    folder = tmp_path_factory.mktemp("redrawing")
    (folder / "reader.onnx").write_bytes(reader_bytes())
    convert.convert(
        model,
        folder / "export",
        training={},
        class_names=NAMES,
        defaults=WAY,
        reader=folder / "reader.onnx",
        redraw=0.4,
        say=lambda line: None,
    )
    return folder / "export"


def reader_bytes(seed=0):
    says = samples.judge_says(class_names=list(NAMES), image_shape=list(IMAGE_SHAPE))
    return samples.judged(says, shape=IMAGE_SHAPE, classes=NUM_CLASSES, seed=seed)


@pytest.fixture(params=["denoiser.onnx", "sampler.onnx"])
def opened(request, files):
    return onnx_model.load(files / request.param)


def test_files_draw_what_keras_draws(opened, model):
    reader = opened.reader.probabilities
    once = model.sample(LABELS, **WAY)
    expected = model.sample(LABELS, reader=reader, redraw=0.4, **WAY)
    changed = np.abs(once - expected).max(axis=(1, 2, 3)) > 0.01
    assert 0 < changed.sum() < len(LABELS)
    np.testing.assert_allclose(opened.sample(LABELS), expected, atol=1e-4)
    np.testing.assert_allclose(opened.sample(LABELS, redraw=0.0), once, atol=1e-4)


def test_neither_chunks_nor_parts_change_anything(opened, monkeypatch):
    labels = np.repeat([2, 0, 1], 4)
    whole = opened.sample(labels)
    assert np.abs(whole - opened.sample(labels, redraw=0.0)).max() > 0.01
    monkeypatch.setattr(request, "MAX_IMAGES", 3)
    np.testing.assert_allclose(opened.sample(labels), whole, atol=1e-5)
    parts = [opened.sample(labels, shard=(k, 5)) for k in range(1, 6)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_what_a_callback_saw_comes_out(files, model):
    opened = onnx_model.load(files / "denoiser.onnx")
    frames = []
    images = opened.sample(LABELS, callback=frames.append)
    np.testing.assert_array_equal(images, frames[-1].x0)
    np.testing.assert_allclose(images, opened.sample(LABELS, redraw=0.0), atol=1e-6)
    way = opened.sample(LABELS, to_seed=5)
    np.testing.assert_allclose(way, opened.sample(LABELS, to_seed=5, redraw=0.0), atol=1e-6)


def test_images_that_begin_with_one_are_drawn_again_from_it(model):
    picture = np.linspace(0, 1, 64, dtype=np.float32).reshape(IMAGE_SHAPE)
    keep = np.tile(np.arange(8) < 4, (8, 1))
    asked = {"start_from": picture, "keep": keep, **WAY}
    once = model.sample(LABELS, **asked)
    images = model.sample(LABELS, reader=by_brightness, redraw=1.0, **asked)
    assert np.abs(images - once).max() > 0.01
    assert (images[:, keep] == picture[keep]).all()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"redraw": 1.5}, "redraw: expected a number in [0, 1], got 1.5"),
        ({"redraw": "much"}, "redraw: expected a number in [0, 1], got 'much'"),
        ({"redraw": float("nan")}, "redraw: expected a number in [0, 1], got nan"),
        ({"redraw": 0.5}, "redraw: expected reader as well, got 0.5 alone"),
        ({"redraw": 0.5, "to_seed": 1}, "redraw: expected 0 with to_seed, got 0.5"),
        ({"redraw": 0.5, "callback": print}, "redraw: expected 0 with callback, got 0.5"),
        ({"reader": lambda x: np.ones((len(x), 2))}, "reader: expected probabilities (8, 3), got (8, 2)"),
        ({"reader": lambda x: (np.ones((len(x), 3)), x)}, "reader: expected probabilities (8, 3), got tuple"),
        ({"reader": lambda x: np.full((len(x), 3), np.nan)}, "reader: expected probabilities in [0, 1], got nan..nan"),
        ({"reader": lambda x: np.full((len(x), 3), -2.0)}, "reader: expected probabilities in [0, 1], got -2.0..-2.0"),
    ],
)  # fmt: skip
def test_errors(model, asked, expected):
    with pytest.raises(ValueError) as caught:
        model.sample(LABELS, **WAY, **asked)
    assert str(caught.value) == expected


def test_without_classes_nothing_is_in_doubt():
    plain = kd.DiffusionModel(make_unet(num_classes=None), kd.linear_schedule(50))
    with pytest.raises(ValueError, match="redraw: expected 0 with a model without classes"):
        plain.sample(num_images=2, reader=by_brightness, redraw=0.5, num_steps=2)


# ---- the files


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A reader of the same images and classes that reads otherwise."""
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    path.write_bytes(reader_bytes(seed=1))
    return path


def test_a_reader_of_ones_own(files, other, model):
    own = onnx_model.load(files / "denoiser.onnx")
    named = onnx_model.load(files / "denoiser.onnx", reader=other)
    assert own.usual_redraw == 0.4 and named.usual_redraw == redrawing.BELOW
    drawn = named.sample(LABELS, redraw=0.4)
    assert np.abs(drawn - own.sample(LABELS)).max() > 0.01
    expected = model.sample(LABELS, reader=named.reader.probabilities, redraw=0.4, **WAY)
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    given = own.sample(LABELS, reader=named.reader.probabilities, redraw=0.4)
    np.testing.assert_array_equal(given, drawn)


def moved(files, tmp_path, reader=None):
    made = tmp_path / "denoiser.onnx"
    made.write_bytes((files / "denoiser.onnx").read_bytes())
    if reader is not None:
        (tmp_path / "reader.onnx").write_bytes(reader)
    return made


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (None, "expected the reader that the model was exported with, found none; put it there"),
        (b"nonsense", "reader.onnx: expected a file that onnxruntime can load"),
        (reader_bytes(seed=5), "expected the reader that the model was exported with, got another"),
    ],
    ids=["none", "nonsense", "another"],
)  # fmt: skip
def test_a_reader_that_is_missed_is_said_before_the_first_image(files, tmp_path, reader, expected):
    alone = onnx_model.load(moved(files, tmp_path, reader))
    with pytest.raises(UserError, match=expected):
        alone.sample(LABELS)
    assert alone.sample(LABELS, redraw=0.0).shape == (8, *IMAGE_SHAPE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shape": (4, 4, 1)}, "--reader: expected one of image_shape"),
        ({"names": ["ape", "bee", "cat"]}, "--reader: expected one of class_names"),
    ],
    ids=["shape", "names"],
)
def test_a_reader_of_other_images_is_refused(files, tmp_path, changes, expected):
    shape = changes.get("shape", IMAGE_SHAPE)
    says = samples.judge_says(
        class_names=changes.get("names", list(NAMES)), image_shape=list(shape)
    )
    (tmp_path / "other.onnx").write_bytes(samples.judged(says, shape=shape, classes=NUM_CLASSES))
    with pytest.raises(UserError, match=expected):
        onnx_model.load(files / "denoiser.onnx", reader=tmp_path / "other.onnx")


def test_the_program_draws_again(files, other, tmp_path, monkeypatch):
    def drawn(*words):
        words = [str(files / "denoiser.onnx"), "--out", str(tmp_path / "a.npy"), *words]
        monkeypatch.setattr(sys, "argv", ["sample", *words])
        assert command.main() == 0
        return np.load(tmp_path / "a.npy")

    usual, once = drawn(), drawn("--redraw", "0")
    assert np.abs(usual - once).max() > 0.01
    np.testing.assert_array_equal(drawn("--redraw", "0.4"), usual)
    named = drawn("--reader", str(other), "--redraw", "0.4")
    assert np.abs(named - usual).max() > 0.01


def test_a_spec_says_its_reader(files):
    spec = onnx_model.load(files / "sampler.onnx").spec
    assert spec.reader == {
        "sha256": onnx_model.load(files / "denoiser.onnx").reader.sha256,
        "redraw": 0.4,
    }
    assert not {"reader", "redraw"} & set(json.loads(spec.to_json())["defaults"])
