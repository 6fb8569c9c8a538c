"""A program: trains a model on one device and then on two, alike in all else, and leaves what came of it.

python two_devices.py NAME BATCH_SIZE
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from conftest import make_small

import keras_diffusion as kd

name, batch_size = sys.argv[1], int(sys.argv[2])
cpu, one = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 2)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (50, 8, 8, 1), np.uint8), np.arange(50) % 3


def make():
    if name == "unet":
        network = kd.unet(width=4, num_classes=3, image_shape=(8, 8, 1))
        return kd.DiffusionModel(network, kd.linear_schedule(50))
    if name == "flow":
        schedule = kd.flow_schedule(50)
        return kd.DiffusionModel(make_small(), schedule, prediction="flow", stratified=True)
    model = kd.DiffusionModel(make_small(), kd.linear_schedule(50))
    if name == "student":
        return kd.distill(model, num_steps=3, guidance_scale=2.0, guidance_interval=(0.3, 0.8))
    x = keras.Input((8, 8, 1))
    parts = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
    wrap = {"matched": kd.match, "refined": kd.refine}[name]
    model = wrap(model, keras.Model(x, [parts]), num_steps=3, pool=300)  # of three blocks
    model.adapt(images, labels)
    return model


def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        model.compile(optimizer=keras.optimizers.Adam(1e-3))
    batches = kd.training_batches(images, labels, batch_size=batch_size, seed=0)
    losses = model.fit(batches, epochs=4, steps_per_epoch=3, verbose=0).history["loss"]
    test = model.evaluate(images / np.float32(255), labels, batch_size=16, verbose=0)
    last = float(model.batch_loss.numpy())
    drawn = model.sample([0, 1, 2], num_steps=3, seed=1)
    variables = [w.numpy() for w in [*model.weights, *model.optimizer.variables]]
    return model, [losses, test, last, drawn, *variables]


_, alone = train(tf.distribute.get_strategy())
model, both = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
np.savez("one.npz", *alone)
np.savez("two.npz", *both)
model.save("two.keras")
