"""Which images are asked for: what `test_sampling.py` doesn't reach."""

import time

import numpy as np
import pytest

from keras_diffusion import noise, schedules
from keras_diffusion.sampling import request, samplers


@pytest.mark.parametrize("index", [-1, 2**32])
def test_numbers_of_images_have_32_bits(index):
    with pytest.raises(ValueError, match=r"indices: expected integers in \[0, 2\^32\)"):
        noise.image_keys(0, [0, 1], [0, index])


@pytest.mark.parametrize("scale", [1e39, [1.0, -1e39], np.inf])
def test_guidance_fits_in_float32(scale):
    with pytest.raises(ValueError, match="guidance_scale: expected a number"):
        request.make([0, 1], image_shape=(4, 4, 1), num_classes=3, guidance_scale=scale)


def test_between_two_seeds_in_equal_steps_for_each_label():
    labels = [2, 0, 2, 2, 0, 1]
    asked = request.make(labels, image_shape=(4, 4, 1), num_classes=3, to_seed=1)
    assert asked.fraction.tolist() == [0, 0, 0.5, 1, 1, 0]


def test_many_images_between_two_seeds_take_no_time():
    labels = np.repeat(np.arange(10), 10_000)  # one pass for each image would take minutes
    began = time.perf_counter()
    request.make(labels, image_shape=(4, 4, 1), num_classes=10, to_seed=1)
    assert time.perf_counter() - began < 5


USUAL = {"sampler": "ddim", "eta": 0.5, "num_steps": 7, "spacing": "lam"}
LISTED = {"sampler": "ddim", "spacing": [50, 9]}


@pytest.mark.parametrize(
    ("given", "defaults", "expected"),
    [
        ({}, USUAL, USUAL),
        ({"eta": 0.0}, USUAL, USUAL | {"eta": 0.0}),
        ({"sampler": "ddim"}, USUAL, USUAL),
        ({"sampler": "heun"}, USUAL, {"sampler": "heun", "num_steps": 7, "spacing": "lam"}),
        ({"spacing": [3, 1]}, USUAL, {"sampler": "ddim", "eta": 0.5, "spacing": [3, 1]}),
        (
            {"strength": 0.5},
            USUAL,
            {"strength": 0.5, "sampler": "ddim", "eta": 0.5, "spacing": "lam"},
        ),
        ({"strength": 1.0}, USUAL, USUAL | {"strength": 1.0}),
        ({"num_steps": 3}, LISTED, {"sampler": "ddim", "num_steps": 3}),
        ({"strength": 0.5}, LISTED, {"sampler": "ddim", "strength": 0.5}),
        ({"eta": 1.0}, LISTED, LISTED | {"eta": 1.0}),
    ],
)
def test_defaults_that_go_with_what_is_given(given, defaults, expected):
    assert samplers.fill_in(given, defaults) == expected


def test_flows_are_drawn_by_eulers_method():
    flow, linear = schedules.flow_schedule(10), schedules.linear_schedule(10)
    euler = samplers.plan(flow, "flow", num_steps=4)
    assert (euler.rows == samplers.plan(flow, "flow", sampler="euler", num_steps=4).rows).all()
    ddpm = samplers.plan(linear, "eps", num_steps=4)
    assert (ddpm.rows == samplers.plan(linear, "eps", sampler="ddpm", num_steps=4).rows).all()
