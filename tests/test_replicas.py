"""Training on several devices: the same as on one, to rounding. Devices are logical CPUs, each test a process of its own."""

import concurrent.futures
import os
import pathlib
import socket
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
    if network == "matched":
        x = keras.Input((8, 8, 1))
        parts = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
        model = kd.match(model, keras.Model(x, [parts]), num_steps=3, window=40)
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
    [("unet", 20), ("modulated_unet", 21), ("student", 21), ("matched", 21)],
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


WORKER = """
import json, os, sys

index, ports, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if ports:
    workers = [f"127.0.0.1:{port}" for port in ports.split(",")]
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
import keras, numpy as np, tensorflow as tf
import keras_diffusion as kd

strategy = tf.distribute.MultiWorkerMirroredStrategy() if ports else tf.distribute.get_strategy()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (50, 8, 8, 1), np.uint8), np.arange(50) % 3
with strategy.scope():
    model = kd.DiffusionModel(kd.unet(width=4, num_classes=3, image_shape=(8, 8, 1)), kd.linear_schedule(50))
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
batches = kd.training_batches(images, labels, batch_size=20, seed=0).with_options(options)
batches = iter(strategy.experimental_distribute_dataset(batches))

@tf.function
def step(batch):
    return strategy.run(model.train_step, args=(batch,))

for _ in range(7):
    step(next(batches))
np.savez(out, strategy.num_replicas_in_sync, *[np.asarray(w) for w in model.weights])
"""


def test_two_workers_train_as_one_in_a_loop_of_ones_own(tmp_path):
    """Two processes over loopback: Keras 3's `fit` fails there, our `train_step` doesn't."""
    (tmp_path / "worker.py").write_text(WORKER)
    done = run("worker.py", "0", "", "alone.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = ",".join(str(one.getsockname()[1]) for one in sockets)
    for one in sockets:
        one.close()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = list(
            pool.map(lambda k: run("worker.py", k, ports, f"{k}.npz", cwd=tmp_path), ["0", "1"])
        )
    assert [one.returncode for one in both] == [0, 0], both[0].stderr[-2000:]
    alone, *workers = (np.load(tmp_path / f"{name}.npz") for name in ("alone", "0", "1"))
    for worker in workers:
        assert int(worker["arr_0"]) == 2
        for name in alone.files[1:]:
            np.testing.assert_allclose(worker[name], alone[name], rtol=2e-4, atol=2e-5)


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
    strategy = types.SimpleNamespace(num_replicas_in_sync=count)
    if wrong is None:
        replicas.check_batches(strategy, num_images, batch_size)
        return
    with pytest.raises(UserError, match=f"each of {count} devices, got one of {wrong} images"):
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
