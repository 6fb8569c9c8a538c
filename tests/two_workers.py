"""A program: one of several workers that train as one in a loop of their own, or one alone, and what came of it.

python two_workers.py OUT.npz INDEX
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from conftest import make_small

import keras_diffusion as kd
from keras_diffusion import replicas

out, index = sys.argv[1], int(sys.argv[2])
alone = not tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (50, 8, 8, 1), np.uint8), np.arange(50) % 3
with strategy.scope():
    model = kd.DiffusionModel(make_small(), kd.linear_schedule(50))
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
mean = strategy.run(lambda: replicas.mean(tf.constant(1.0 + index, tf.float64)))
weights = [np.asarray(w) for w in model.weights]
np.savez(out, strategy.num_replicas_in_sync, float(mean), *weights)
