"""Draws with NumPy alone, in an environment that has numpy and onnxruntime and nothing else of ours."""

import importlib.util
import sys

import numpy as np
import onnxruntime

import keras_diffusion
from keras_diffusion import sampling, schedules

for name in ("tensorflow", "keras", "matplotlib"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed: this proves nothing"
    assert name not in sys.modules


def network(x, t, label):
    """The exact noise prediction where every image is grey, 0.5."""
    alpha, sigma = schedule.at(float(t[0]) * schedule.num_train_steps)
    return ((x - alpha * 0.5) / sigma).astype(np.float32)


schedule = schedules.linear_schedule(300)
for sampler in sampling.SAMPLERS:
    if sampler == "euler":
        continue  # for flow schedules
    plan = sampling.plan(schedule, "eps", sampler=sampler, num_steps=20)
    images = sampling.sample(
        network, plan, [0, 1, 10], image_shape=(28, 28, 1), num_classes=10, scale=5.0
    )
    assert np.abs(images - 0.5).max() < 1e-4, sampler
print(
    f"keras_diffusion {keras_diffusion.__version__}, numpy {np.__version__}, onnxruntime {onnxruntime.__version__}: ok"
)
