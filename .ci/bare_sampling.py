"""Draws with NumPy alone, in an environment that has numpy and onnxruntime and nothing else of ours."""

import importlib.util
import sys

import numpy as np
import onnxruntime

import keras_diffusion
from keras_diffusion import predictions, sampling, schedules

for name in ("tensorflow", "keras", "matplotlib"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed: this proves nothing"
    assert name not in sys.modules


def knows_grey(schedule, prediction):
    """The exact prediction where every image is grey, 0.5."""

    def network(x, t, label):
        alpha, sigma = schedule.at(float(t[0]) * schedule.num_train_steps)
        eps = (x - alpha * 0.5) / sigma
        return predictions.target(prediction, alpha, sigma, x0=0.5, eps=eps).astype(np.float32)

    return network


drawn = []
for schedule, prediction in (
    (schedules.linear_schedule(300), "eps"),
    (schedules.flow_schedule(300), "flow"),
):
    for sampler in sampling.SAMPLERS:
        if sampler in ("euler", "midpoint") and not schedule.is_flow:
            continue
        plan = sampling.plan(schedule, prediction, sampler=sampler, num_steps=20)
        images = sampling.sample(
            knows_grey(schedule, prediction),
            plan,
            [0, 1, 10],
            image_shape=(28, 28, 1),
            num_classes=10,
            guidance_scale=5.0,
        )
        assert np.abs(images - 0.5).max() < 1e-3, (sampler, np.abs(images - 0.5).max())
        drawn.append(sampler)
assert set(drawn) == set(sampling.SAMPLERS)
labels = [0, 1, 2, 10]
shipped = sampling.load().sample(labels, seed=4)
assert shipped.shape == (4, 28, 28, 1) and 0 <= shipped.min() <= shipped.max() <= 1
print(
    f"keras_diffusion {keras_diffusion.__version__}, numpy {np.__version__}, onnxruntime {onnxruntime.__version__}: ok"
)
