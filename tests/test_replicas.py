"""Training on several devices: the same as on one, to rounding. Devices are logical CPUs, each test a process of its own."""

import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from keras_diffusion import replicas
from keras_diffusion.errors import UserError
from keras_diffusion.runs import Run

ROOT = pathlib.Path(__file__).parents[1]
OWN = """
import sys
import keras, numpy as np, tensorflow as tf
import keras_diffusion as kd

network, count, batch_size, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cpu, one = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 2)
names = ["CPU:0", "CPU:1"][:count]
strategy = tf.distribute.MirroredStrategy(names) if count > 1 else tf.distribute.get_strategy()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (50, 8, 8, 1), np.uint8), np.arange(50) % 3
with strategy.scope():
    build = kd.modulated_unet if network == "modulated_unet" else kd.unet
    flow = network == "modulated_unet"
    model = kd.DiffusionModel(
        build(width=4, num_classes=3, image_shape=(8, 8, 1)),
        kd.flow_schedule(50) if flow else kd.linear_schedule(50),
        prediction="flow" if flow else "eps",
        stratified=flow,
    )
    if network == "student":
        model = kd.distill(model, num_steps=3, guidance_scale=2.0, guidance_interval=(0.3, 0.8))
    if network in ("matched", "refined"):
        x = keras.Input((8, 8, 1))
        parts = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
        make = kd.match if network == "matched" else kd.refine
        model = make(model, keras.Model(x, [parts]), num_steps=3, pool=300)  # of three blocks
        model.adapt(images, labels)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
batches = kd.training_batches(images, labels, batch_size=batch_size, seed=0)
losses = model.fit(batches, epochs=4, steps_per_epoch=3, verbose=0).history["loss"]
test = model.evaluate(images / np.float32(255), labels, batch_size=16, verbose=0)
last = float(model.batch_loss.numpy())
drawn = model.sample([0, 1, 2], num_steps=3, seed=1)
optimizer = [v.numpy() for v in model.optimizer.variables]
np.savez(out, losses, test, last, drawn, *[w.numpy() for w in model.weights], *optimizer)
model.save(out.replace(".npz", ".keras"))
"""


def run(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("network", "batch_size"),
    [("unet", 20), ("modulated_unet", 21), ("student", 21), ("matched", 21), ("refined", 21)],
)
def test_two_devices_train_as_one(network, batch_size, tmp_path):
    """Of 50 images an epoch's last batch is a short one, and 21 aren't divided evenly. The same batches and draws: losses, weights, averaged weights, optimizer, evaluation and samples."""
    (tmp_path / "own.py").write_text(OWN)
    for count in ("1", "2"):
        done = run("own.py", network, count, str(batch_size), f"{count}.npz", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (np.load(tmp_path / f"{count}.npz") for count in (1, 2))
    assert one.files == two.files and len(one.files) > 100
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-4, atol=2e-5)
    # What was saved under a strategy is a model like any other.
    loaded = keras.models.load_model(tmp_path / "2.keras")
    np.testing.assert_allclose(
        loaded.sample([0, 1, 2], num_steps=3, seed=1), two["arr_3"], atol=1e-5
    )


FIT = (
    str(ROOT / "scripts" / "fit.py"), "--part", "2.5", "--data", "mnist-5k", "--limit", "30", "--width", "4",
    "--batch-size", "20", "--epochs", "1",
)  # fmt: skip


def test_fit_on_two_devices(tmp_path):
    for count in ("1", "2"):
        done = run(*FIT, "--devices", count, "--out", count, cwd=tmp_path)
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
def test_what_devices_cant_do_is_one_line(tmp_path, words, expected):
    done = run(*FIT, *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr
