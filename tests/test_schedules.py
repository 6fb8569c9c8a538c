"""Schedules against their closed forms, written out again in plain Python."""

import json
import math

import numpy as np
import pytest
from conftest import one_line

from keras_diffusion import schedules

VARIANCE_PRESERVING = {
    "linear": schedules.linear_schedule(300),
    "linear-7": schedules.linear_schedule(7, beta_start=1e-3, beta_end=0.5),
    "cosine": schedules.cosine_schedule(300),
    "cosine-shifted": schedules.cosine_schedule(300, shift=2),
    "cosine-20": schedules.cosine_schedule(20, offset=0.01, beta_max=0.9),
}
OTHERS = {
    "flow": schedules.flow_schedule(300),
    "flow-7": schedules.flow_schedule(7),
    "denoiser": schedules.denoiser_schedule(0.5),
    "pure noise": schedules.denoiser_schedule(1.0, alpha=0.0),
    "table": schedules.table_schedule([1.0, 0.8, 0.1], [0.0, 0.5, 1.3]),
    "continuous table": schedules.table_schedule([1.0, 0.8, 0.1], [0.0, 0.5, 1.3], continuous=True),
}
EVERY = VARIANCE_PRESERVING | OTHERS


def test_the_courses_terminal_alpha_bar():
    schedule = schedules.linear_schedule(300)
    assert schedule.num_train_steps == 300
    assert schedule.alpha[0] == 1 and schedule.sigma[0] == 0
    assert round(schedule.alpha[300] ** 2, 3) == 0.048
    assert round(schedule.alpha[300], 2) == 0.22


def test_linear_is_the_running_product():
    steps, first, last = 300, 1e-4, 0.02
    schedule = schedules.linear_schedule()
    alpha_bar = 1.0
    for t in range(1, steps + 1):
        alpha_bar *= 1 - (first + (last - first) * (t - 1) / (steps - 1))
        assert math.isclose(schedule.alpha[t], math.sqrt(alpha_bar), rel_tol=1e-12)
        assert math.isclose(schedule.sigma[t], math.sqrt(1 - alpha_bar), rel_tol=1e-10)


@pytest.mark.parametrize("shift", [0.5, 2])
def test_a_shift_multiplies_signal_over_noise_at_every_t(shift):
    plain, shifted = (schedules.cosine_schedule(300, shift=k) for k in (1, shift))
    ratio = (shifted.alpha * plain.sigma)[1:] / (shifted.sigma * plain.alpha)[1:]
    np.testing.assert_allclose(ratio, shift, rtol=1e-9)
    assert shifted.to_config()["shift"] == shift and "shift" not in plain.to_config()
    again = schedules.from_config(shifted.to_config())
    np.testing.assert_array_equal(again.alpha, shifted.alpha)


def test_cosine_is_the_papers():
    schedule = schedules.cosine_schedule(300)

    def f(t):
        return math.cos((t / 300 + 0.008) / 1.008 * math.pi / 2) ** 2

    # Where no beta is capped the product telescopes to f(t)/f(0); the cap makes the last one 0.001 of the one before.
    for t in range(1, 300):
        assert math.isclose(schedule.alpha[t] ** 2, f(t) / f(0), rel_tol=1e-9)
    assert math.isclose(schedule.alpha[300] ** 2, 0.001 * f(299) / f(0), rel_tol=1e-9)


def test_flow_is_exact_at_any_time():
    schedule = schedules.flow_schedule(300)
    assert schedule.continuous
    t = np.random.default_rng(0).uniform(0, 300, 1000)
    alpha, sigma = schedule.at(t)
    np.testing.assert_allclose(alpha, 1 - t / 300, atol=1e-15)
    np.testing.assert_allclose(sigma, t / 300, atol=1e-15)


@pytest.mark.parametrize(("sigma", "alpha"), [(0.5, 1.0), (1.0, 0.0)])
def test_denoiser_has_one_step(sigma, alpha):
    schedule = schedules.denoiser_schedule(sigma, alpha=alpha)
    assert schedule.num_train_steps == 1 and not schedule.continuous
    np.testing.assert_array_equal(schedule.alpha, [1, alpha])
    np.testing.assert_array_equal(schedule.sigma, [0, sigma])


@pytest.mark.parametrize("name", EVERY)
def test_time_at_is_the_inverse_of_lam(name):
    schedule = EVERY[name]
    t = np.linspace(0, schedule.num_train_steps, 1001)[1:]
    t = t[np.isfinite(schedule.lam(t))]
    np.testing.assert_allclose(schedule.time_at(schedule.lam(t)), t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lam", [-10.0, math.nan, math.inf])
def test_time_at_refuses_what_never_comes(lam):
    with pytest.raises(ValueError, match="lam: expected finite values of at least -1.493") as error:
        schedules.linear_schedule(300).time_at([*np.linspace(-1, 1, 200), lam, -11.0])
    assert str(error.value).endswith(f"got {lam}")
    one_line(error)


@pytest.mark.parametrize(("name", "is_flow"), [("linear", False), ("flow", True), ("table", False)])
def test_is_flow(name, is_flow):
    assert EVERY[name].is_flow == is_flow


@pytest.mark.parametrize("name", EVERY)
def test_between_integers(name):
    """Exact at integers, continuous, and half log-SNR falls all the way."""
    schedule = EVERY[name]
    steps = schedule.num_train_steps
    grid = np.arange(steps + 1)
    alpha, sigma = schedule.at(grid)
    np.testing.assert_array_equal(alpha, schedule.alpha)
    np.testing.assert_array_equal(sigma, schedule.sigma)

    for side in (grid[1:] - 1e-9, grid[:-1] + 1e-9):
        near = np.round(side).astype(int)
        for value, table in zip(schedule.at(side), (schedule.alpha, schedule.sigma), strict=True):
            # sqrt(1 - sigma²) has a vertical tangent at sigma = 1, hence not 1e-8
            np.testing.assert_allclose(value, table[near], atol=1e-4)

    lam = schedule.lam(np.linspace(0, steps, 20 * steps + 1))
    assert lam[0] == np.inf and (np.diff(lam) < 0).all()


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_lam_is_linear_between_integers(name):
    schedule = VARIANCE_PRESERVING[name]
    steps = schedule.num_train_steps
    t = np.random.default_rng(0).uniform(1, steps, 500)
    alpha, sigma = schedule.at(t)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-12)
    table = np.log(schedule.alpha[1:] / schedule.sigma[1:])
    expected = np.interp(t, np.arange(1, steps + 1), table)
    np.testing.assert_allclose(schedule.lam(t), expected, atol=1e-9)
    # From t = 0, where lam is infinite, sigma is interpolated instead.
    alpha, sigma = schedule.at(0.25)
    assert math.isclose(sigma, schedule.sigma[1] / 4) and math.isclose(alpha**2 + sigma**2, 1)


def test_at_keeps_the_shape():
    schedule = VARIANCE_PRESERVING["linear"]
    for shape in [(), (3,), (2, 3)]:
        alpha, sigma = schedule.at(np.full(shape, 2.5))
        assert alpha.shape == sigma.shape == shape


@pytest.mark.parametrize("name", EVERY)
def test_config_round_trip(name):
    schedule = EVERY[name]
    again = schedules.from_config(json.loads(json.dumps(schedule.to_config())))
    np.testing.assert_array_equal(again.alpha, schedule.alpha)
    np.testing.assert_array_equal(again.sigma, schedule.sigma)
    assert again.continuous == schedule.continuous
    assert again.to_config() == schedule.to_config()


def test_tables_are_frozen():
    given = np.array([1.0, 0.5])
    schedule = schedules.table_schedule(given, [0.0, 0.5])
    given[1] = 7  # the caller's array is copied
    assert schedule.alpha[1] == 0.5
    with pytest.raises(ValueError):
        schedule.alpha[1] = 7
    with pytest.raises(AttributeError):
        schedule.alpha = given


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: schedules.linear_schedule(0),
            "num_train_steps: expected a positive integer, got 0",
        ),
        (lambda: schedules.cosine_schedule(2.5), "num_train_steps: .* got 2.5"),
        (lambda: schedules.flow_schedule(-1), "num_train_steps: .* got -1"),
        (lambda: schedules.linear_schedule(10, beta_start=0), "0 < beta_start <= beta_end < 1"),
        (lambda: schedules.linear_schedule(10, beta_end=1), "0 < beta_start <= beta_end < 1"),
        (lambda: schedules.linear_schedule(10, beta_start=0.5), "got 0.5 and 0.02"),
        (lambda: schedules.cosine_schedule(10, offset=-1), "offset >= 0"),
        (lambda: schedules.cosine_schedule(10, beta_max=1), "beta_max < 1"),
        (lambda: schedules.cosine_schedule(10, shift=0), "shift: .* got 0"),
        (lambda: schedules.cosine_schedule(10, shift=math.inf), "shift: .* got inf"),
        (lambda: schedules.cosine_schedule(10, shift="2"), "shift: .* got '2'"),
        (lambda: schedules.denoiser_schedule(0), "sigma > 0"),
        (lambda: schedules.denoiser_schedule(alpha=-1), "alpha >= 0"),
        (lambda: schedules.table_schedule([1.0], [0.0]), "T\\+1 >= 2, got \\(1,\\)"),
        (
            lambda: schedules.table_schedule([1.0, 0.5], [0.0, 0.5, 1.0]),
            "got \\(2,\\) and \\(3,\\)",
        ),
        (lambda: schedules.table_schedule([1.0, math.nan], [0.0, 0.5]), "finite values"),
        (lambda: schedules.table_schedule([1.0, -0.5], [0.0, 0.5]), "alpha >= 0"),
        (lambda: schedules.table_schedule([1.0, 0.5], [0.1, 0.5]), "start at 0"),
        (lambda: schedules.table_schedule([1.0, 0.5, 0.4], [0.0, 0.5, 0.5]), "increase"),
        (lambda: schedules.table_schedule([1.0, 0.2, 0.6], [0.0, 0.3, 0.6]), "fall with t"),
        (
            lambda: schedules.table_schedule([1.0, 0.8, 0.6], [0.0, 0.6, 0.8], continuous=True),
            "variance-preserving",
        ),
        (lambda: schedules.flow_schedule(10).at(10.5), "t: expected times in \\[0, 10\\]"),
        (
            lambda: schedules.flow_schedule(10).at(-0.1),
            "t: expected times in \\[0, 10\\], got -0.1",
        ),
        (lambda: schedules.flow_schedule(10).at(np.arange(200.0)), "t: .* got 11.0"),
        (lambda: schedules.flow_schedule(10).at(math.nan), "t: expected times"),
        (lambda: schedules.from_config({"name": "quadratic"}), "got 'quadratic'"),
        (lambda: schedules.from_config({}), "got None"),
        (lambda: schedules.from_config({"name": "flow", "beta": 1}), "schedule 'flow': .*beta"),
    ],
)
def test_errors(make, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make()
    one_line(error)


def test_a_flow_of_one_step_is_a_flow():
    schedule = schedules.flow_schedule(1)
    assert schedule.continuous and not schedule.is_variance_preserving
    np.testing.assert_allclose(schedule.at(0.3), (0.7, 0.3))
