"""Predictions: each by its own equation, and the inverse inverts."""

import numpy as np
import pytest
from conftest import one_line

from keras_diffusion import predictions

# out, written as in its paper.
FORMULAS = {
    "eps": lambda alpha, sigma, x0, eps: eps,
    "x0": lambda alpha, sigma, x0, eps: x0,
    "v": lambda alpha, sigma, x0, eps: alpha * eps - sigma * x0,
    "flow": lambda alpha, sigma, x0, eps: x0 - eps,
}


def draw():
    rng = np.random.default_rng(0)
    alpha, sigma = rng.uniform(0.1, 1.5, (2, 200, 1))  # any pair, not only variance-preserving ones
    x0, eps = rng.normal(size=(2, 200, 5))
    return alpha, sigma, x0, eps


def test_every_prediction_has_a_formula_here():
    assert set(FORMULAS) == set(predictions.NAMES)


@pytest.mark.parametrize("name", predictions.NAMES)
def test_target_is_the_papers(name):
    alpha, sigma, x0, eps = draw()
    out = predictions.target(name, alpha, sigma, x0=x0, eps=eps)
    np.testing.assert_allclose(out, FORMULAS[name](alpha, sigma, x0, eps), atol=1e-15)


@pytest.mark.parametrize("name", predictions.NAMES)
def test_to_x0_inverts_target(name):
    alpha, sigma, x0, eps = draw()
    out = predictions.target(name, alpha, sigma, x0=x0, eps=eps)
    p, q = predictions.to_x0(name, alpha, sigma)
    np.testing.assert_allclose(p * (alpha * x0 + sigma * eps) + q * out, x0, atol=1e-12)


@pytest.mark.parametrize("name", ["x0", "v", "flow"])
def test_pure_noise_is_no_obstacle(name):
    p, q = predictions.to_x0(name, 0.0, 1.0)
    x0, eps = 0.3, -0.7
    out = predictions.target(name, 0.0, 1.0, x0=x0, eps=eps)
    assert abs(p * eps + q * out - x0) < 1e-15


def test_eps_says_nothing_about_pure_noise():
    with pytest.raises(ZeroDivisionError):
        predictions.to_x0("eps", 0.0, 1.0)


def test_unknown_name():
    with pytest.raises(ValueError, match="prediction: expected one of .* got 'score'") as error:
        predictions.target("score", 1.0, 1.0, x0=0.0, eps=0.0)
    one_line(error)


@pytest.mark.parametrize("name", predictions.NAMES)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_x0(name, gamma):
    alpha, sigma, x0, eps = draw()
    xt = alpha * x0 + sigma * eps
    out = predictions.target(name, alpha, sigma, x0=x0, eps=eps)
    p, q = predictions.to_x0(name, alpha, sigma)
    wrong = out + 0.01
    weight = predictions.min_snr_weight(name, alpha, sigma, gamma=gamma, minimum=np.minimum)
    expected = np.minimum((alpha / sigma) ** 2, gamma) * (p * xt + q * wrong - x0) ** 2
    np.testing.assert_allclose(weight * (wrong - out) ** 2, expected, rtol=1e-6)


def test_min_snr_is_the_papers():
    angle = np.linspace(0.1, 1.4, 20)
    alpha, sigma = np.cos(angle), np.sin(angle)
    snr = (alpha / sigma) ** 2
    papers = {"eps": np.minimum(snr, 5) / snr, "v": np.minimum(snr, 5) / (snr + 1)}
    papers["x0"] = np.minimum(snr, 5)
    for name, expected in papers.items():
        weight = predictions.min_snr_weight(name, alpha, sigma, gamma=5, minimum=np.minimum)
        np.testing.assert_allclose(weight, expected)


@pytest.mark.parametrize("name", predictions.NAMES)
def test_in_unit_weights_the_best_linear_guess_has_a_loss_of_one(name):
    """Regression of the target on xt over many draws, at each of three times; nothing of the formula is in it."""
    rng, mean, std = np.random.default_rng(1), 0.3, 0.2
    x0, eps = mean + std * rng.normal(size=200_000), rng.normal(size=200_000)
    for alpha, sigma in ((0.95, 0.31), (0.6, 0.8), (0.2, 0.98)):
        xt = alpha * x0 + sigma * eps
        target = predictions.target(name, alpha, sigma, x0=x0, eps=eps)
        left = target - np.polyval(np.polyfit(xt, target, 1), xt)
        weight = predictions.unit_weight(name, alpha, sigma, std=std)
        assert weight * np.mean(left**2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", predictions.NAMES)
def test_unit_weight_is_snr_and_the_inverse_of_the_variance_for_x0(name):
    alpha, sigma, x0, eps = draw()
    xt = alpha * x0 + sigma * eps
    out = predictions.target(name, alpha, sigma, x0=x0, eps=eps)
    p, q = predictions.to_x0(name, alpha, sigma)
    wrong = out + 0.01
    weight = predictions.unit_weight(name, alpha, sigma, std=0.5)
    expected = ((alpha / sigma) ** 2 + 1 / 0.5**2) * (p * xt + q * wrong - x0) ** 2
    np.testing.assert_allclose(weight * (wrong - out) ** 2, expected, rtol=1e-6)
