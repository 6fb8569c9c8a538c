"""Exported files in onnxruntime: drawing, what is refused, and the commands around them."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet, one_line
from PIL import Image

import keras_diffusion as kd
from keras_diffusion import cli, data
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import judge
from keras_diffusion.exporting import convert
from keras_diffusion.sampling import __main__ as command
from keras_diffusion.sampling import onnx_model, onnx_session, request


@pytest.fixture(scope="module")
def model():
    return kd.DiffusionModel(make_unet(num_classes=NUM_CLASSES), kd.linear_schedule(50))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Files whose defaults aren't the program's: ddim with eta 0.5 in 4 steps, guidance 3 at small t."""
    folder = tmp_path_factory.mktemp("export") / "export"
    convert.convert(model, folder, training={}, defaults=DEFAULT, say=lambda line: None)
    return folder


@pytest.fixture(params=["denoiser.onnx", "sampler.onnx"])
def opened(request, folder):
    return onnx_model.load(folder / request.param)


LABELS = [0, 1, 1, 2, 3]
DEFAULT = {
    "sampler": "ddim",
    "eta": 0.5,
    "num_steps": 4,
    "spacing": "quadratic",
    "guidance_scale": 3.0,
    "guidance_interval": (0.0, 0.6),
}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, {}),
        ({"num_steps": 6}, {"num_steps": 6}),
        ({"eta": 0.0}, {"eta": 0.0}),
        ({"sharpen": 0.8}, {"sharpen": 0.8}),
        ({"sampler": "ddim"}, {}),
        ({"sampler": "heun"}, {"sampler": "heun", "eta": None}),
        (
            {"sampler": "ddpm", "variance": "beta"},
            {"sampler": "ddpm", "variance": "beta", "eta": None},
        ),
        ({"spacing": [50, 20, 3]}, {"spacing": [50, 20, 3], "num_steps": None}),
        ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance_scale": [0, 1, 2, 3, 4]}, {"guidance_scale": [0, 1, 2, 3, 4]}),
        ({"guidance_interval": (0.5, 1.0)}, {"guidance_interval": (0.5, 1.0)}),
        ({"seed": 2**40 + 1}, {"seed": 2**40 + 1}),
        ({"indices": [7, 0, 5, 1, 2]}, {"indices": [7, 0, 5, 1, 2]}),
    ],
)
def test_what_is_not_given_is_the_files_default(opened, model, asked, meant):
    arguments = {k: v for k, v in (DEFAULT | meant).items() if v is not None}
    expected = model.sample(LABELS, **arguments)
    images = opened.sample(LABELS, **asked)
    assert images.shape == (5, *IMAGE_SHAPE) and images.dtype == np.float32
    assert np.abs(images - expected).max() < 1e-4


def test_starting_from_an_image(folder, model):
    rng = np.random.default_rng(0)
    image, keep = rng.random(IMAGE_SHAPE).astype(np.float32), rng.random(IMAGE_SHAPE[:2]) > 0.5
    asked = {"start_from": image, "strength": 0.5, "keep": keep, "to_seed": 4}
    arguments = {k: v for k, v in DEFAULT.items() if k != "num_steps"}
    expected = model.sample(LABELS, **arguments, **asked)
    images = onnx_model.load(folder / "denoiser.onnx").sample(LABELS, **asked)
    assert np.abs(images - expected).max() < 1e-4


def test_parts_are_the_whole(opened, monkeypatch):
    monkeypatch.setattr(request, "MAX_IMAGES", 3)
    labels = np.repeat([2, 0, 1], 4)
    whole = opened.sample(labels)
    parts = [opened.sample(labels, shard=(k, 5)) for k in range(1, 6)]
    assert (np.concatenate(parts) == whole).all()


def test_a_part_may_be_empty(opened):
    assert opened.sample([0], shard=(1, 2)).shape == (0, *IMAGE_SHAPE)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1.5, 2), (1, 0)])
def test_parts_that_are_none(opened, shard):
    with pytest.raises(ValueError, match="shard: expected"):
        opened.sample(LABELS, shard=shard)


def test_images_of_no_class(opened, model):
    expected = model.sample(num_images=3, seed=2, **DEFAULT)
    assert np.abs(opened.sample(num_images=3, seed=2) - expected).max() < 1e-4


def test_cuda_that_does_not_start_is_said(folder, monkeypatch):
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.warns(UserWarning), pytest.raises(UserError, match="expected CUDA to start"):
        onnx_model.load(folder / "denoiser.onnx", provider="cuda")


def test_without_cuda_it_is_said(folder):
    with pytest.raises(UserError, match="expected an onnxruntime with CUDA"):
        onnx_model.load(folder / "denoiser.onnx", provider="cuda")


def test_what_onnxruntime_can_not_run_is_one_line(folder):
    opened = onnx_model.load(folder / "denoiser.onnx")
    with pytest.raises(UserError) as error:
        opened.network(
            np.ones((1, 4, 4, 1), np.float32), np.ones(1, np.float32), np.ones(1, np.int32)
        )
    assert "could not run the model" in one_line(error)


def test_a_default_that_is_a_list_of_times(folder, model, tmp_path):
    defaults = {"sampler": "ddim", "spacing": [50, 20, 3]}
    rewrite(folder / "denoiser.onnx", tmp_path / "a.onnx", defaults=defaults)
    opened = onnx_model.load(tmp_path / "a.onnx")
    for asked in (
        {},
        {"num_steps": 5},
        {"strength": 0.5, "start_from": np.ones(IMAGE_SHAPE, np.float32)},
    ):
        usual = {"spacing": [50, 20, 3]} if not asked else {}
        expected = model.sample(LABELS, sampler="ddim", guidance_scale=1.0, **usual, **asked)
        assert np.abs(opened.sample(LABELS, **asked) - expected).max() < 1e-4


def test_images_go_where_they_are_told(opened):
    made = []

    def make(shape):
        made.append(np.zeros(shape, np.float32))
        return made[-1]

    assert opened.sample(LABELS, out=make) is made[0]
    assert (made[0] == opened.sample(LABELS)).all()


@pytest.mark.parametrize(
    "asked",
    [
        {"start_from": np.zeros(IMAGE_SHAPE, np.float32)},
        {"strength": 0.5},
        {"keep": np.ones(IMAGE_SHAPE[:2], bool)},
        {"to_seed": 1},
        {"clip": False},
        {"guidance_rescale": 0.5},
        {"callback": print},
    ],
)
def test_a_fixed_graph_can_not(folder, asked):
    with pytest.raises(UserError) as error:
        onnx_model.load(folder / "sampler.onnx").sample(LABELS, **asked)
    assert f"{next(iter(asked))}: expected none with a sampler.onnx" in one_line(error)


def test_arguments_that_are_none(opened):
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        opened.sample(LABELS, foo=1)


# --- Files that aren't ours


def with_metadata(folder, path, **metadata):
    model = onnx.load(folder / "denoiser.onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def rewrite(file, path, **changes):
    model = onnx.load(file)
    spec = json.loads(onnx_model.load(file).spec.to_json())
    onnx.helper.set_model_props(model, {specs.KEY: json.dumps(spec | changes)})
    onnx.save(model, path)


FOREIGN = {
    "none": (lambda folder, path: None, "expected an ONNX file, found none"),
    "folder": (lambda folder, path: path.mkdir(), "found a folder; name a file in it"),
    "text": (lambda folder, path: path.write_text("no"), "that onnxruntime can load"),
    "empty": (lambda folder, path: path.write_bytes(b""), "got"),
    "cut": (
        lambda folder, path: path.write_bytes((folder / "denoiser.onnx").read_bytes()[:5000]),
        "that onnxruntime can load",
    ),
    "without a spec": (with_metadata, "got one without its spec"),
    "foreign": (
        lambda folder, path: with_metadata(folder, path, keras_diffusion='{"a": 1}'),
        "format: expected 1",
    ),
    "newer": (
        lambda folder, path: rewrite(folder / "denoiser.onnx", path, format=2),
        "a newer keras-diffusion wrote it",
    ),
    "another kind": (
        lambda folder, path: rewrite(folder / "sampler.onnx", path, kind="denoiser"),
        "expected the graph of a denoiser of images (8, 8, 1), got another",
    ),
    "another shape": (
        lambda folder, path: rewrite(folder / "denoiser.onnx", path, image_shape=[8, 12, 1]),
        "expected the graph of a denoiser of images (8, 12, 1), got another",
    ),
    "with noise": (
        lambda folder, path: path.write_bytes((folder / "sampler_noise.onnx").read_bytes()),
        "expected a denoiser.onnx or sampler.onnx, got a sampler_noise.onnx",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(folder, tmp_path, name):
    make, expected = FOREIGN[name]
    make(folder, tmp_path / "a.onnx")
    with pytest.raises(UserError) as error:
        onnx_model.load(tmp_path / "a.onnx")
    assert expected in one_line(error) and "a.onnx" in one_line(error)


def test_threads_and_providers(folder):
    path = folder / "denoiser.onnx"
    one = onnx_model.load(path, threads=1, provider="cpu").session.whole
    assert one.get_session_options().intra_op_num_threads == 1
    assert one.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("usable", "threads"), [({0, 1, 2, 3}, 0), ({0, 1, 2}, 0), ({2}, 1), ({0, 3}, 2)]
)
def test_onnxruntime_is_told_of_cpus_that_may_not_be_used(folder, monkeypatch, usable, threads):
    """Left alone (0), it starts a thread for every core of the machine, however few this process was given."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: usable, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    opened = onnx_model.load(folder / "denoiser.onnx").session.whole
    assert opened.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx"])
def test_many_images_are_shared_among_threads_and_are_the_same(folder, monkeypatch, name):
    one, three = (onnx_model.load(folder / name, threads=n) for n in (1, 3))
    labels = np.arange(50) % (NUM_CLASSES + 1)
    scale = np.linspace(0, 4, 50)
    seen, call = [], onnx_session.call

    def spy(session, outputs, given):
        options = session.get_session_options()
        seen.append((options.intra_op_num_threads, len(given["label"]), threading.get_ident()))
        time.sleep(0.001)  # so long that another thread takes the next part
        return call(session, outputs, given)

    monkeypatch.setattr(onnx_session, "call", spy)
    few = one.sample(labels[:5], guidance_scale=scale[:5])
    np.testing.assert_array_equal(three.sample(labels[:5], guidance_scale=scale[:5]), few)
    assert {threads for threads, *_ in seen} == {1, 3}
    whole = one.sample(labels, guidance_scale=scale)
    np.testing.assert_array_equal(whole[:5], few)
    seen.clear()
    np.testing.assert_array_equal(three.sample(labels, guidance_scale=scale), whole)
    threads, sizes, who = (set(some) for some in zip(*seen, strict=True))
    assert threads == {1} and max(sizes) <= onnx_session.PART
    assert len(who) > 1 and threading.get_ident() not in who


def test_parts_are_of_all_images_and_as_many_for_each_thread():
    for threads in (2, 3, 7):
        for count in range(onnx_session.PART * threads, 200):
            parts = onnx_session._parts(count, threads)
            sizes = [part.stop - part.start for part in parts]
            assert len(parts) % threads == 0 and max(sizes) <= onnx_session.PART
            assert max(sizes) - min(sizes) <= 1
            assert [k for part in parts for k in range(part.start, part.stop)] == [*range(count)]


def test_what_goes_wrong_in_a_thread_is_raised(folder):
    opened = onnx_model.load(folder / "denoiser.onnx", threads=2)
    x = np.zeros((32, *IMAGE_SHAPE), np.float32)
    x[30] = np.nan
    with pytest.raises(UserError, match="expected finite numbers"):
        opened.network(x, np.ones(32, np.float32), np.zeros(32, np.int32))
    assert "_alone" in vars(opened.session)  # the call was shared out


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_threads_are_a_positive_number(folder, threads):
    with pytest.raises(ValueError, match="threads: expected a positive integer, got"):
        onnx_model.load(folder / "denoiser.onnx", threads=threads)


# --- The command


def draw(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
    return command.main()


@pytest.mark.parametrize(("words", "told"), [((), False), (("--steps", "4"), True)])
def test_other_times_than_a_students_own_are_told(tmp_path, monkeypatch, capsys, words, told):
    draw(monkeypatch, "--labels", "1", "--per-label", "1", *words, "--out", tmp_path / "a.npy")
    line = "the model has learned to draw by ddim at 300,220,162,108,56: otherwise it may draw far"
    assert (line in capsys.readouterr().err) == told


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx"])
def test_png(folder, tmp_path, monkeypatch, capsys, name):
    out = tmp_path / "a.png"
    draw(monkeypatch, folder / name, "--labels", "2,0", "--per-label", 3, "--out", out)
    assert "6 images in" in capsys.readouterr().out
    expected = onnx_model.load(folder / name).sample([2, 2, 2, 0, 0, 0]).reshape(2, 3, 8, 8)
    with Image.open(out) as image:
        pixels = np.asarray(image)
    for r in range(2):
        for c in range(3):
            found = pixels[2 + 18 * r : 18 + 18 * r : 2, 2 + 18 * c : 18 + 18 * c : 2] / 255
            assert np.abs(found - expected[r, c]).max() < 0.51 / 255


def test_npy_and_its_parts(folder, tmp_path, monkeypatch):
    asked = [folder / "denoiser.onnx", "--per-label", 5, "--seed", 3]
    draw(monkeypatch, *asked, "--out", tmp_path / "whole.npy")
    for k in (1, 2, 3, 4):
        draw(monkeypatch, *asked, "--shard", f"{k}/4", "--out", tmp_path / f"{k}.npy")
    whole = np.load(tmp_path / "whole.npy")
    labels = np.repeat([0, 1, 2], 5)
    expected = onnx_model.load(folder / "denoiser.onnx").sample(labels, seed=3)
    assert (whole == expected).all()
    assert (np.concatenate([np.load(tmp_path / f"{k}.npy") for k in (1, 2, 3, 4)]) == whole).all()


def test_a_sampler_makes_no_animation(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="expected .png or .npy with a sampler.onnx, got .gif"):
        draw(monkeypatch, folder / "sampler.onnx", "--out", tmp_path / "a.gif")


def test_a_png_to_start_from_takes_pillow(folder, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "PIL" else find(name)
    )
    with pytest.raises(UserError, match="pip install pillow, or give a .npy"):
        draw(
            monkeypatch,
            folder / "denoiser.onnx",
            "--start-from",
            tmp_path / "a.png",
            "--out",
            tmp_path / "b.png",
        )


def test_gif_ends_with_the_last_estimate(folder, tmp_path, monkeypatch):
    out = tmp_path / "a.gif"
    draw(monkeypatch, folder / "denoiser.onnx", "--labels", "1", "--per-label", 2, "--out", out)
    last = onnx_model.load(folder / "denoiser.onnx").sample([1, 1])
    with Image.open(out) as image:
        assert image.n_frames == 4
        image.seek(3)
        found = np.asarray(image.convert("L"))[2:18:2, 2:18:2] / 255
    assert np.abs(found - last[0, ..., 0]).max() < 0.51 / 255


REFUSED = {
    "a label": (["--labels", "0,4"], "--labels: expected 0..3"),
    "steps": (["--steps", "51"], "--steps: expected an integer in 1..50, got 51"),
    "steps of none": (["--steps", "0"], "at least 1"),
    "another sampler's option": (["--sampler", "heun", "--eta", "0.5"], "'heun'"),
    "a flow's sampler": (["--sampler", "euler"], "euler: expected a flow schedule"),
    "shard of none": (["--shard", "0/2"], "expected k/n"),
    "shard past the end": (["--shard", "3/2"], "expected k/n"),
    "shard as a picture": (["--shard", "1/2"], "expected a .npy with --shard"),
    "threads": (["--threads", "0"], "1..1024"),
    "a folder that isn't there": (["--out", "no/a.png"], "expected a folder"),
    "another kind of file": (["--out", "a.jpg"], "expected a name ending in .png"),
    "an image that isn't there": (["--start-from", "no.png"], "no.png"),
    "kept pixels of nothing": (["--strength", "0.5"], "expected --start-from as well"),
    "a .gif too large": (["--per-label", "4000", "--out", "a.gif"], "65535 pixels a side"),
    "too many": (["--per-label", "99999999999"], "1..10000000"),
    "a name too long": (["--out", f"{'a' * 252}.png", "--steps", "1"], "File name too long"),
    "too much guidance": (["--guidance", "1e39"], "--guidance: expected a number"),
    "guidance": (["--guidance", "nan"], "expected a number"),
    "seed": (["--seed", "-1"], "0..9223372036854775807"),
    "unknown": (["--nothing"], "unrecognized arguments"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_and_status_2(folder, tmp_path, monkeypatch, capsys, name):
    arguments, expected = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample.py", str(folder / "denoiser.onnx"), *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.count("\n") == 1 and expected in err, err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    (tmp_path / "a.npy").symlink_to("/dev/full")
    asked = ["sample.py", str(folder / "denoiser.onnx"), "--per-label", "200", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", [*asked, "--out", str(tmp_path / "a.npy")])
    monkeypatch.setattr(command, "replacing", lambda path: contextlib.nullcontext(Path(path)))
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "No space left" in err, err


def test_nothing_half_written(folder, tmp_path, monkeypatch):
    (tmp_path / "a.npy").write_bytes(b"before")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_model.Denoiser, "network", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(monkeypatch, folder / "denoiser.onnx", "--out", tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


# --- The model that ships


@pytest.mark.parametrize(
    "program", [["-m", "keras_diffusion.sampling"], ["export/sample.py"]], ids=["module", "script"]
)
def test_the_package_draws_digits_from_any_folder(repo, tmp_path, program):
    program = [str(repo / p) if p.endswith(".py") else p for p in program]
    code = subprocess.run(
        [sys.executable, "-X", "importtime", *program, "--labels", "0,1", "--per-label", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
    )
    assert code.returncode == 0, code.stderr[-500:]
    assert [p.name for p in tmp_path.iterdir()] == ["digits.png"]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in code.stderr.splitlines()}
    assert "onnxruntime" in loaded
    for name in ("tensorflow", "keras", "PIL", "matplotlib", "tqdm", "onnx", "pandas", "scipy"):
        assert name not in loaded, name


def test_the_shipped_model():
    shipped = onnx_model.load()
    assert shipped.spec.class_names == tuple("0123456789")
    assert shipped.spec.training["data"]["train_count"] == 30000  # that it was matched with
    assert onnx_model.SHIPPED.stat().st_size < 3e6
    assert "/" not in json.dumps(shipped.spec.training)  # no path of the machine that made it
    assert shipped.reader.says["test_accuracy"] > 0.99
    assert not shipped.reader.hashes & {judge.Classifier(path).sha256 for path in judge.SHIPPED}


def test_the_shipped_model_draws_what_it_is_asked_for():
    """Most of its digits lie nearest to a real one of their class."""
    real = data.load("mnist-5k")
    known = real.x_train.reshape(len(real.x_train), -1).astype(np.float32) / 255
    labels = np.repeat(np.arange(10), 6)
    images = onnx_model.load().sample(labels, seed=1).reshape(60, -1)
    distance = (known**2).sum(1) - 2 * images @ known.T
    read = real.y_train[distance.argmin(axis=1)]
    assert (read == labels).mean() >= 0.9


@pytest.mark.parametrize(
    ("version", "options"),
    [("1.17.3", {}), ("1.18.0", {"use_tf32": "0"}), ("1.31.1", {"use_tf32": "0"}), ("2.0.0rc1", {"use_tf32": "0"})],
)  # fmt: skip
def test_cuda_computes_in_float32_proper_where_it_can_be_told_to(version, options):
    assert onnx_session._cuda_options(version) == options
