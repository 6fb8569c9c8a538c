"""scripts/sample.py: what it draws, and what it refuses."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import IMAGE_SHAPE, make_small, make_unet
from PIL import Image

from keras_diffusion import schedules
from keras_diffusion.errors import UserError
from keras_diffusion.training import DiffusionModel

ROOT = pathlib.Path(__file__).parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("sample_script", ROOT / "scripts" / "sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave_run(folder, model, **changes):
    folder.mkdir()
    record = {"format": 1, "status": "finished", "settings": {}, "figures": [], "data": {}}
    (folder / "run.json").write_text(json.dumps({**record, **changes}))
    model.save(folder / "model.keras")


@pytest.fixture(scope="module")
def models():
    schedule = schedules.linear_schedule(300)
    return {
        "classes": DiffusionModel(make_small(), schedule),
        "time": DiffusionModel(make_unet(), schedule),
        "denoiser": DiffusionModel(
            make_unet(conditioning=None), schedules.denoiser_schedule(), prediction="x0"
        ),
    }


@pytest.fixture(scope="module")
def place(models, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, model in models.items():
        leave_run(place / name, model)
    leave_run(place / "named", models["classes"], data={"class_names": ["ape", "bee", "cat"]})
    leave_run(place / "student", models["classes"], distilled={"times": [300.0, 200.0, 100.0]})
    leave_run(place / "stopped", models["classes"], status="interrupted")
    leave_run(place / "bare", models["classes"])
    (place / "bare" / "model.keras").unlink()
    leave_run(place / "damaged", models["classes"])
    (place / "damaged" / "model.keras").write_bytes(b"nothing")
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(place / "deep.png")
    (place / "empty").mkdir()
    Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)).save(place / "ramp.png")
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255
    Image.fromarray(half).save(place / "half.png")
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(place / "large.png")
    (place / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    np.save(place / "bright.npy", np.full(IMAGE_SHAPE, 2.0))
    np.save(place / "object.npy", np.array([{}], dtype=object))
    return place


def draw(monkeypatch, place, words):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["sample.py", *words.split()])
    return load_script().main()


def test_npy_is_what_the_model_samples_label_major(models, place, monkeypatch, capsys):
    words = "classes --labels 2,0 --per-label 3 --sampler ddim --steps 4 --spacing lam --eta 0.5"
    words += " --guidance 2 --guidance-interval 0.1,0.9 --guidance-rescale 0.5 --seed 7 --out a.npy"
    assert draw(monkeypatch, place, words) == 0
    images = np.load(place / "a.npy")
    expected = models["classes"].sample(
        [2, 2, 2, 0, 0, 0],
        sampler="ddim",
        num_steps=4,
        spacing="lam",
        eta=0.5,
        guidance_scale=2.0,
        guidance_interval=(0.1, 0.9),
        guidance_rescale=0.5,
        seed=7,
    )
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert "6 images in " in capsys.readouterr().out


def test_starting_from_and_keeping_files(models, place, monkeypatch):
    words = "classes --labels 1 --per-label 2 --sampler ddim --steps 3 --out b.npy"
    draw(monkeypatch, place, f"{words} --start-from ramp.png --keep half.png --strength 0.5")
    ramp = (np.arange(0, 256, 4).reshape(IMAGE_SHAPE) / 255).astype(np.float32)
    images = np.load(place / "b.npy")
    np.testing.assert_allclose(images[:, :, :4], np.stack([ramp[:, :4]] * 2), atol=1e-7)
    assert np.abs(images[:, :, 4:] - ramp[:, 4:]).max() > 0.05
    keep = np.arange(8) < 4
    expected = models["classes"].sample(
        [1, 1],
        sampler="ddim",
        num_steps=3,
        start_from=ramp,
        keep=np.tile(keep, (8, 1)),
        strength=0.5,
    )
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_png_has_a_row_a_label(place, monkeypatch):
    draw(monkeypatch, place, "named --labels 0,2,3 --per-label 2 --steps 2 --out c.png")
    shown = []
    from keras_diffusion import figures

    monkeypatch.setattr(
        figures, "image_grid", lambda path, grid, **more: shown.append((grid, more))
    )
    draw(monkeypatch, place, "named --labels 0,2,3 --per-label 2 --steps 2 --out d.png")
    draw(monkeypatch, place, "named --labels 0,2,3 --per-label 2 --steps 2 --out d.npy")
    (grid, more), images = shown[0], np.load(place / "d.npy")
    assert more["row_labels"] == ["ape", "cat", "no class"]
    np.testing.assert_array_equal(grid, images.reshape(3, 2, *IMAGE_SHAPE))
    with Image.open(place / "c.png") as image:
        assert len(set(image.convert("L").tobytes())) > 30


def test_gif_shows_the_way(place, monkeypatch):
    draw(monkeypatch, place, "time --per-label 12 --steps 60 --out e.gif")
    with Image.open(place / "e.gif") as image:
        assert image.n_frames >= 40
        frames = []
        for k in (0, image.n_frames - 1):
            image.seek(k)
            frames.append(np.asarray(image.convert("L"), float))
    assert np.abs(frames[0] - frames[1]).max() > 50
    # Two rows of ten, the second with two images and black.
    height, width = frames[1].shape
    assert width > 3 * height


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", False), ("--spacing 300,200,100 --guidance 3 --sampler ddim --eta 0", False), ("--steps 4", True),
        ("--spacing 300,200,50", True), ("--sampler ddpm --steps 3", True), ("--sampler ddim --eta 1 --spacing 300,200,100", True),
        ("--start-from ramp.png --strength 0.5", True),
    ],
)  # fmt: skip
def test_other_times_than_a_students_own_are_told(place, monkeypatch, capsys, words, told):
    draw(monkeypatch, place, f"student --labels 1 --per-label 1 {words} --out told.npy")
    line = "the model has learned to draw by ddim at 300,200,100: otherwise it may draw far worse\n"
    assert (line in capsys.readouterr().err) == told


def test_the_program_itself(models, place):
    """In a process of its own, where nothing of Keras is loaded before."""
    words = "named --labels 1 --per-label 2 --steps 2 --out own.npy"
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "sample.py"), *words.split()],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr and run.stdout.endswith("own.npy\n")
    expected = models["classes"].sample([1, 1], num_steps=2)
    np.testing.assert_allclose(np.load(place / "own.npy"), expected, atol=1e-5)


BAD = [
    ("damaged", "model.keras: expected a model that can be read, got a damaged file"),
    ("classes --start-from deep.png", "more than 8 bits a pixel"),
    ("classes --strength 0.5", "--strength: expected --start-from as well, got none"),
    ("classes --labels 4", "--labels: expected 0..3 (3: no class), got 4"),
    ("classes --labels 1,1", "--labels: expected each class once, got 1,1"),
    ("time --labels 0", "--labels: expected none for a network without classes"),
    ("classes --steps 301", "--steps: expected an integer in 1..300, got 301"),
    ("classes --sampler euler", "euler: expected a flow schedule"),
    ("classes --eta 0.5", "--sampler 'ddpm': expected options ('variance',), got 'eta'"),
    ("classes --spacing 200,300", "--spacing: expected times that fall from 300"),
    ("classes --guidance-interval 1,0", "--guidance-interval: expected (low, high)"),
    ("classes --keep half.png", "--keep: expected --start-from as well"),
    ("classes --start-from none.png", "none.png: expected a .png that can be read"),
    ("classes --start-from broken.png", "broken.png: expected a .png that can be read"),
    ("classes --start-from large.png", "large.png: expected 8x8x1, got 28x28x1"),
    ("classes --start-from bright.npy", "bright.npy: expected values in 0..1, got 2..2"),
    ("classes --start-from object.npy", "object.npy: expected a .npy that can be read"),
    ("classes --start-from a.jpg", "expected an image as .png or .npy, got 'a.jpg'"),
    ("denoiser", "RUN: expected a run of part 2.x, got a one-step denoiser's"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD)
def test_errors(arguments, expected, place, monkeypatch):
    before = sorted(place.iterdir())
    with pytest.raises(UserError) as error:
        draw(monkeypatch, place, f"{arguments} --out never.png")
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert sorted(place.iterdir()) == before


AT_ONCE = [
    ([], "the following arguments are required: RUN"),
    (["nowhere"], "got 'nowhere', which has no run.json"),
    (["empty"], "got 'empty', which has no run.json"),
    (["bare"], "expected a run that trained a model, got 'bare' without one"),
    (["stopped"], "expected a finished run, got 'stopped', which is interrupted"),
    (["classes", "--out", "a.jpg"], "--out: expected a name ending in .png, .gif, .npy"),
    (["classes", "--out", "nowhere/a.png"], "--out: expected a folder that can be written"),
    (["classes", "--labels", "one"], "expected integers with commas"),
    (["classes", "--per-label", "0"], "--per-label"),
    (["classes", "--steps", "0"], "--steps"),
    (["classes", "--sampler", "plms"], "plms"),
    (["classes", "--spacing", "cubic"], "--spacing: expected uniform, quadratic, lam or times"),
    (["classes", "--eta", "2"], "--eta: expected a number in 0..1, got '2'"),
    (["classes", "--eta", "nan"], "--eta: expected a number in 0..1, got 'nan'"),
    (["classes", "--guidance", "inf"], "--guidance: expected a number, got 'inf'"),
    (["classes", "--guidance-interval", "0.5"], "expected two numbers in 0..1"),
    (["classes", "--seed", "-1"], "--seed"),
]


@pytest.mark.parametrize(("arguments", "expected"), AT_ONCE)
def test_answered_at_once(arguments, expected, place):
    """One line, status 2, and TensorFlow is not loaded for it."""
    code = (
        "import runpy, sys\ntry: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "finally: assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts" / "sample.py"), *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert run.returncode == 2 and not run.stdout, run.stderr
    assert run.stderr.startswith("sample.py: ") and run.stderr.count("\n") == 1, run.stderr
    assert expected in run.stderr
