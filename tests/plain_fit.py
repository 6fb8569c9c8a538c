"""A program of a user's own: trains with `kd.Backup` to step 120, or goes on to it.

python plain_fit.py FOLDER OUT.keras
"""

import sys

import keras
import numpy as np
from conftest import make_small

import keras_diffusion as kd

folder, out = sys.argv[1:]
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (200, 8, 8, 1), np.uint8), np.arange(200) % 3
model = kd.DiffusionModel(make_small(), kd.linear_schedule(50))
model.compile(optimizer=keras.optimizers.Adam(1e-3))
backup = kd.Backup(folder, steps=7)
batches = kd.training_batches(images, labels, batch_size=20, seed=0, start_step=backup.step)
history = model.fit(batches, epochs=12, steps_per_epoch=10, verbose=0, callbacks=[backup])
assert int(model.step.numpy()) == 120
model.save(out)
print(backup.step, history.epoch)
