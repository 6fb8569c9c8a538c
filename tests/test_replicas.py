"""Training on several devices: the same as on one, to rounding. Devices are logical CPUs, in a process of their own."""

import pathlib
import types

import keras
import numpy as np
import pytest

from keras_diffusion import replicas
from keras_diffusion.errors import UserError
from keras_diffusion.runs import Run

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [("unet", 20), ("flow", 21), ("student", 21), ("matched", 21), ("refined", 21)],
)
def test_two_devices_train_as_one(python, name, batch_size, tmp_path):
    """Of 50 images an epoch's last batch is a short one, and 21 aren't divided evenly. The same batches and draws: losses, weights, averaged weights, optimizer, evaluation and samples."""
    done = python.run(ROOT / "tests" / "two_devices.py", name, batch_size, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (np.load(tmp_path / f"{count}.npz") for count in ("one", "two"))
    assert one.files == two.files and len(one.files) > 30
    for key in one.files:
        np.testing.assert_allclose(two[key], one[key], rtol=2e-4, atol=2e-5)
    # What was saved under a strategy is a model like any other.
    loaded = keras.models.load_model(tmp_path / "two.keras")
    np.testing.assert_allclose(
        loaded.sample([0, 1, 2], num_steps=3, seed=1), two["arr_3"], atol=1e-5
    )


FIT = (
    str(ROOT / "scripts" / "fit.py"), "--part", "1.2.1", "--data", "mnist-5k", "--limit", "30", "--width", "4",
    "--batch-size", "20", "--epochs", "1",
)  # fmt: skip


def test_fit_on_two_devices(python, tmp_path):
    for count in ("1", "2"):
        done = python.run(*FIT, "--devices", count, "--out", count, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (Run(tmp_path / count) for count in ("1", "2"))
    ours, theirs = ([row["loss"] for row in some.read_metrics()] for some in (one, two))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert len(two.checkpoint_files()) == 1 and two.read()["status"] == "finished"
    np.testing.assert_allclose(
        *(
            [w.numpy() for w in keras.models.load_model(some.model).weights][0]
            for some in (one, two)
        ),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("count", "num_images", "batch_size", "wrong"),
    [(2, 40, 20, None), (2, 41, 20, 1), (4, 29, 20, 9), (8, 64, 16, None), (8, 64, 9, 9), (3, 7, 7, None)],
)  # fmt: skip
def test_every_device_has_an_image_of_every_batch(count, num_images, batch_size, wrong):
    devices, machines = types.SimpleNamespace(), types.SimpleNamespace(_num_workers=count)
    for option, extended in (("--devices", devices), ("--workers", machines)):
        strategy = types.SimpleNamespace(num_replicas_in_sync=count, extended=extended)
        if wrong is None:
            replicas.check_batches(strategy, num_images, batch_size)
            continue
        says = f"^{option}: .* each of {count} devices, got one of {wrong} images"
        with pytest.raises(UserError, match=says):
            replicas.check_batches(strategy, num_images, batch_size)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--limit", "41", "--devices", "2"], "each of 2 devices, got one of 1 images"),
        (["--devices", "2", "--xla", "on"], "--xla: expected auto or off with --devices 2, got on"),
    ],
)
def test_what_devices_cant_do_is_one_line(python, tmp_path, words, expected):
    done = python.run(*FIT, *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr
