"""Samplers: the mathematics of every row, and the same loop in NumPy, TensorFlow and XLA."""

import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet, one_line

from keras_diffusion import noise, sampling, schedules
from keras_diffusion.sampling import guidance, loop, request, samplers, tableau
from keras_diffusion.sampling.frames import Frames

LINEAR = schedules.linear_schedule(300)
SCHEDULES = {
    "linear": LINEAR,
    "cosine": schedules.cosine_schedule(300),
    "flow": schedules.flow_schedule(300),
}
BENT = schedules.table_schedule([1.0, 0.6, 0.1], [0.0, 0.5, 1.3], continuous=True)
# Every sampler whose rows keep the forward process's own marginals, and how many calls S steps take.
MARGINAL = [
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.3}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {"variance": "beta_tilde"}),
    ("dpmpp_2m", {}),
    ("heun", {}),
    ("euler", {}),
    ("midpoint", {}),
]
CALLS = {"heun": lambda num_steps: 2 * num_steps - 1, "midpoint": lambda num_steps: 2 * num_steps}
BETA = ("ddpm", {"variance": "beta"})  # on purpose larger than the marginal allows
FOR_FLOWS = ("euler", "midpoint")


def on_schedules(cases):
    """(sampler, options, schedule's name) of everything that goes together."""
    return [
        (sampler, options, name)
        for sampler, options in cases
        for name in SCHEDULES
        if sampler not in FOR_FLOWS or name == "flow"
    ]


# (sampler, options, schedule's name, order of convergence)
ORDERS = [
    ("ddim", {}, "linear", 1),
    ("dpmpp_2m", {}, "linear", 2),
    ("heun", {}, "linear", 2),
    ("ddim", {}, "cosine", 1),
    ("dpmpp_2m", {}, "cosine", 2),
    ("heun", {}, "cosine", 2),
    ("euler", {}, "flow", 1),
    ("dpmpp_2m", {}, "flow", 2),
    ("heun", {}, "flow", 2),
    # Of second order; but a Gaussian's variance on a flow is a quadratic in t, for which the leading error cancels.
    ("midpoint", {}, "flow", 3),
]


def make_plan(schedule, sampler, num_steps=300, **options):
    prediction = "flow" if schedule.continuous else "eps"
    return samplers.plan(schedule, prediction, sampler=sampler, num_steps=num_steps, **options)


# ---- the rows


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50, 300])
@pytest.mark.parametrize(("sampler", "options", "name"), on_schedules(MARGINAL))
def test_rows_preserve_the_marginal(sampler, options, name, num_steps):
    """With the true x0 and eps, a row takes alpha_t*x0 + sigma_t*eps to alpha_s*x0 + sigma_s*eps', in distribution.

    Each row goes to the time at which the next one calls.
    """
    schedule = SCHEDULES[name]
    plan = make_plan(schedule, sampler, num_steps, **options)
    assert len(plan) == CALLS.get(sampler, int)(num_steps)
    alpha_t, sigma_t = schedule.at(plan.t)
    np.testing.assert_array_equal([plan.alpha, plan.sigma], [alpha_t, sigma_t])
    alpha_s, sigma_s = schedule.at(np.append(plan.t[1:], 0.0))
    np.testing.assert_allclose(plan.a * alpha_t + plan.b + plan.d, alpha_s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.a**2 * sigma_t**2 + plan.c**2, sigma_s**2, rtol=0, atol=1e-12)
    assert (plan.c >= 0).all()
    least = {"dpmpp_2m": 3 if name != "flow" else 4, "heun": 2, "midpoint": 1}.get(
        sampler, math.inf
    )
    assert plan.d.any() == (num_steps >= least)
    # How much of the noise is fresh: none at eta = 0, some at the others, in every row but the last.
    if sampler not in ("ddim", "ddpm") or options.get("eta") == 0:
        assert not plan.is_stochastic
    elif num_steps > 1:
        assert (plan.c[:-1] > 0).all() and plan.is_stochastic


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [2, 7, 50, 300])
def test_the_larger_variance_is_that_of_a_forward_step(name, num_steps):
    """From s to t, skipped steps and all: x_t = (alpha_t/alpha_s)*x_s + noise of this variance. None in the last row."""
    schedule = SCHEDULES[name]
    plan = make_plan(schedule, "ddpm", num_steps, variance="beta")
    alpha_s, sigma_s = schedule.at(np.append(plan.t[1:], 0.0))
    through = (plan.alpha / alpha_s) ** 2 * sigma_s**2 + plan.c**2
    np.testing.assert_allclose(through[:-1], plan.sigma[:-1] ** 2, rtol=0, atol=1e-12)
    assert plan.c[-1] == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 50, 300])
def test_eta_one_is_ddpm(name, num_steps):
    ddim = make_plan(SCHEDULES[name], "ddim", num_steps, eta=1.0)
    ddpm = make_plan(SCHEDULES[name], "ddpm", num_steps, variance="beta_tilde")
    np.testing.assert_allclose(ddim.rows, ddpm.rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_scales_the_noise(name):
    whole, part = (make_plan(SCHEDULES[name], "ddim", 10, eta=eta) for eta in (1.0, 0.3))
    np.testing.assert_allclose(part.c, 0.3 * whole.c, atol=1e-15)


def course_posterior():
    """The course's formula over all steps, t = T..1: coefficients of x0_hat and x_t, beta-tilde and beta."""
    beta = np.linspace(1e-4, 0.02, 300)
    alpha_bar = np.cumprod(1 - beta)
    before = np.append(1.0, alpha_bar[:-1])
    of_x0 = np.sqrt(before) * beta / (1 - alpha_bar)
    of_xt = np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar)
    beta_tilde = (1 - before) / (1 - alpha_bar) * beta
    return (column[::-1] for column in (of_x0, of_xt, beta_tilde, beta))


def test_ddpm_over_all_steps_is_the_courses():
    of_x0, of_xt, beta_tilde, beta = course_posterior()
    plan = make_plan(LINEAR, "ddpm")
    np.testing.assert_array_equal(plan.t, np.arange(300, 0, -1))
    np.testing.assert_allclose(plan.a, of_xt, atol=1e-10)
    np.testing.assert_allclose(plan.b, of_x0, atol=1e-10)
    np.testing.assert_allclose(plan.c**2, beta_tilde, atol=1e-12)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 300))[::-1]
    np.testing.assert_allclose(plan.p, 1 / np.sqrt(alpha_bar), rtol=1e-12)
    np.testing.assert_allclose(plan.q, -np.sqrt(1 - alpha_bar) / np.sqrt(alpha_bar), rtol=1e-10)

    larger = make_plan(LINEAR, "ddpm", variance="beta")
    np.testing.assert_allclose(larger.c[:-1] ** 2, beta[:-1], atol=1e-12)
    assert larger.c[-1] == 0 and plan.c[-1] == 0
    np.testing.assert_array_equal(larger.rows[:, :5], plan.rows[:, :5])


# ---- the loop


def run_alone(network, plan, x, *, steps=None, clip=lambda x: x):
    """The tableau in float64."""
    x0, states = np.zeros_like(x), [x]
    steps = np.zeros((len(plan), 1)) if steps is None else steps
    for t, row, fresh in zip(plan.t, plan.rows, steps, strict=True):
        x, x0 = tableau.step(x, x0, network(x, t), fresh, tableau.Row(*row), clip, clip)
        states.append(x)
    return x, states


@pytest.mark.parametrize("num_steps", [1, 5, 300])
@pytest.mark.parametrize(("sampler", "options", "name"), on_schedules([*MARGINAL, BETA]))
def test_a_perfect_network_gives_back_x0(sampler, options, name, num_steps):
    """The last row lands on s = 0: nothing of x and no noise is left, and no step is missing."""
    schedule = SCHEDULES[name]
    rng = np.random.default_rng(0)
    x0 = rng.uniform(size=(3, *IMAGE_SHAPE)).astype(np.float32)
    called = []

    def knows_x0(x, t, label):
        assert x.dtype == t.dtype == np.float32 and t.shape == label.shape == (3,)
        called.append(t[0] * 300)
        return x0

    plan = samplers.plan(schedule, "x0", sampler=sampler, num_steps=num_steps, **options)
    images = sampling.sample(knows_x0, plan, [0, 0, 0], image_shape=IMAGE_SHAPE, num_classes=0)
    np.testing.assert_array_equal(images, x0)
    np.testing.assert_allclose(called, plan.t, atol=1e-4)
    assert called[0] == 300


def test_a_perfect_eps_network_gives_back_x0():
    """Through the prediction's inverse too, in float64: only rounding is left."""
    x0 = np.random.default_rng(0).uniform(size=20)

    def knows_eps(x, t):
        alpha, sigma = LINEAR.at(t)
        return (x - alpha * x0) / sigma

    plan = make_plan(LINEAR, "ddpm")
    steps = np.random.default_rng(1).normal(size=(300, 20))
    x = np.random.default_rng(2).normal(size=20)
    result, states = run_alone(knows_eps, plan, x, steps=steps)
    np.testing.assert_allclose(result, x0, atol=1e-10)
    assert np.abs(states[-2] - x0).max() > 1e-3  # one step before the end it is not there yet


@pytest.mark.parametrize(("sampler", "options", "name", "order"), ORDERS)
def test_order_of_convergence(sampler, options, name, order):
    """x0 ~ N(mu, s²): the best eps and the exact path of the probability flow are closed forms.

    On a fixed interval of half log-SNR, at real times, without clipping. The steps grow, for a method that counts on
    equal ones would otherwise pass.
    """
    schedule, (first, last) = SCHEDULES[name], (270, 20)
    mu, s = np.array([0.2, 0.8]), np.array([0.3, 0.5])

    def best_eps(x, t):
        alpha, sigma = schedule.at(t)
        return sigma * (x - alpha * mu) / (alpha**2 * s**2 + sigma**2)

    def exact(x):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(first), schedule.at(last)
        variance = [a**2 * s**2 + g**2 for a, g in ((alpha_t, sigma_t), (alpha_s, sigma_s))]
        return alpha_s * mu + np.sqrt(variance[1] / variance[0]) * (x - alpha_t * mu)

    def error(num_steps):
        low, high = schedule.lam(first), schedule.lam(last)
        times = schedule.time_at(low + (high - low) * np.linspace(0, 1, num_steps + 1) ** 1.5)
        plan = samplers.SAMPLERS[sampler](schedule, "eps", times, **options)
        x = np.array([1.3, -0.7])
        return np.abs(run_alone(best_eps, plan, x)[0] - exact(x)).max()

    errors = np.array([error(num_steps) for num_steps in (40, 80, 160, 320)])
    slopes = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.2)


def gaussian_error(schedule, plan, *, mu=0.5, s=0.3):
    """How far a plan for eps ends from the exact end of the probability flow, for x0 ~ N(mu, s²)."""
    x = np.array([1.3, -0.7])
    alpha, sigma = schedule.at(300.0)
    exact = mu + s / np.sqrt(alpha**2 * s**2 + sigma**2) * (x - alpha * mu)

    def best_eps(x, t):
        alpha, sigma = schedule.at(t)
        return sigma * (x - alpha * mu) / (alpha**2 * s**2 + sigma**2)

    return np.abs(run_alone(best_eps, plan, x)[0] - exact).max()


def test_second_order_is_worth_it():
    """Twenty calls each: the error of DPM-Solver++(2M) is a small part of the first order's."""
    first, second = (
        gaussian_error(LINEAR, make_plan(LINEAR, sampler, 20, spacing="lam"))
        for sampler in ("ddim", "dpmpp_2m")
    )
    assert second < 0.2 * first


@pytest.mark.parametrize(
    ("mu", "s", "num_steps"),
    [(0.5, 0.3, 15), (0.5, 0.3, 20), (0.8, 0.5, 5), (0.8, 0.5, 20), (0.8, 0.5, 40)],
)
def test_heun_on_cosine_is_worth_its_second_calls(mu, s, num_steps):
    """Its error is less than ddim's in as many calls; with fewer, or narrower data, ddim's own may be the smaller."""
    cosine = SCHEDULES["cosine"]
    first = make_plan(cosine, "ddim", 2 * num_steps - 1)
    second = make_plan(cosine, "heun", num_steps)
    assert len(first) == len(second)
    first, second = (gaussian_error(cosine, plan, mu=mu, s=s) for plan in (first, second))
    assert second < 0.95 * first


@pytest.mark.parametrize("num_steps", [2, 5, 10, 20, 40])
@pytest.mark.parametrize("name", SCHEDULES)
def test_heuns_coefficients_stay_small(name, num_steps):
    """An error of the network's is never made larger, near alpha = 0 neither.

    b of the first calls is alpha_s less what the noise brings along, of the second k_s*(rho_t/rho_s - 1)/2, where k is at
    most sqrt(2), and steps that are uniform in t hardly more than double rho.
    """
    plan = make_plan(SCHEDULES[name], "heun", num_steps)
    assert np.abs([plan.b, plan.d]).max() <= 1 + 1e-12


def test_2m_without_a_finite_past_is_first_order():
    """At alpha = 0 half log-SNR is -inf: that row, the one after it, and the one to sigma = 0 are ddim's."""
    flow = SCHEDULES["flow"]
    second, first = (make_plan(flow, sampler, 6) for sampler in ("dpmpp_2m", "ddim"))
    np.testing.assert_array_equal(second.rows[[0, 1, 5]], first.rows[[0, 1, 5]])
    assert second.d[2:5].all()
    on_line = make_plan(LINEAR, "dpmpp_2m", 6)
    assert on_line.d[1:5].all() and not on_line.d[[0, 5]].any()


def test_2m_weighs_the_last_estimate_by_half_the_ratio_of_steps():
    """Lu et al. 2022: D = (1 + 1/(2r))*x0 - 1/(2r)*x0_before, r = h_before/h; steps of very different length."""
    t = np.array([250.0, 240.0, 100.0, 90.0, 10.0])
    plan = samplers.dpmpp_2m(SCHEDULES["flow"], "flow", np.append(t, 0.0))
    h = np.diff(np.log((300 - t) / t))
    share = plan.d[1:4] / (plan.b + plan.d)[1:4]
    np.testing.assert_allclose(share, -h[1:] / (2 * h[:-1]), rtol=1e-10)


def test_heun_where_alpha_is_zero_takes_two_calls():
    """From pure noise too; only the prediction must tell x0 there."""
    zero = schedules.table_schedule([1.0, 0.8, 0.6, 0.0], [0.0, 0.6, 0.8, 1.0])
    plan = samplers.plan(zero, "x0", sampler="heun")
    np.testing.assert_array_equal(plan.t, [3, 2, 2, 1, 1])
    # From rho = 1 to 4/7: half of 7/4 - 1, times k = 1.4.
    np.testing.assert_allclose([plan.b[1], plan.d[1]], [0.525, -0.525])
    with pytest.raises(ValueError, match="column p: not finite in row 0"):
        samplers.plan(zero, "eps", sampler="heun")


def test_midpoint_between_whole_times_is_right_too():
    """Where training drew whole numbers the middle may be a half, at which the schedule is interpolated."""
    flow = SCHEDULES["flow"]
    whole = schedules.table_schedule(flow.alpha, flow.sigma)
    plans = [samplers.plan(each, "flow", sampler="midpoint") for each in (whole, flow)]
    assert plans[0].t[1] == 292.5
    np.testing.assert_allclose(plans[0].rows, plans[1].rows, rtol=0, atol=1e-12)


def test_euler_is_the_velocitys():
    """x_s = x_t + (t - s)/T * out, for the flow's own network."""
    plan = make_plan(SCHEDULES["flow"], "euler", 8)
    rng = np.random.default_rng(0)
    x, velocity = rng.normal(size=(2, 5))
    for i, row in enumerate(plan.rows):
        moved, _ = tableau.step(
            x, 0 * x, velocity, 0.0, tableau.Row(*row), lambda x: x, lambda x: x
        )
        np.testing.assert_allclose(moved, x + velocity / 8, atol=1e-12, err_msg=f"row {i}")


def test_step_uses_every_column():
    row = tableau.Row(p=2.0, q=3.0, a=5.0, b=7.0, d=11.0, c=13.0, e=0.0)
    x, x0 = tableau.step(1.0, 10.0, 100.0, 1000.0, row, lambda x: min(x, 300.0), lambda x: x)
    assert x0 == 300.0  # of 2*1 + 3*100, clipped
    assert x == 5.0 * 1 + 7.0 * 300 + 11.0 * 10 + 13.0 * 1000
    _, x0 = tableau.step(0.25, 0.0, 0.0, 0.0, row._replace(p=1.0, e=0.5), lambda x: x, lambda x: x)
    assert x0 == 0.25 + 0.5 * 0.25 * 0.75 * -0.5


def test_clip_bounds_every_estimate():
    seen = []

    def network(x, t, label):
        seen.append(np.abs(x).max())
        return np.full_like(x, 3.0)

    plan = samplers.plan(LINEAR, "x0", sampler="ddim", num_steps=5)
    make = {"image_shape": IMAGE_SHAPE, "num_classes": 0}
    clipped = sampling.sample(network, plan, [0], **make)
    assert (clipped == 1).all() and max(seen[1:]) < 5
    # Without it only the end is clipped, so that the result is an image all the same.
    bounded, seen = max(seen[2:]), []
    assert (sampling.sample(network, plan, [0], clip=False, **make) == 1).all()
    assert max(seen[2:]) > bounded


def tensorflow_sample(
    compiled_loop, plan, labels, *, interval=None, rescale=0.0, clip=True, callback=None, **options
):
    asked = request.make(labels, image_shape=IMAGE_SHAPE, num_classes=NUM_CLASSES, **options)
    run = compiled_loop.runner(guidance_rescale=rescale, clip=clip)
    weights = guidance.weights(plan, interval)
    return loop.drive(run, plan, asked, weights=weights, callback=callback)


PICTURE = np.linspace(0, 1, 64, dtype=np.float32).reshape(IMAGE_SHAPE)
LEFT = np.arange(8) < 4  # columns


@pytest.mark.parametrize(
    ("sampler", "name", "make", "ask"),
    [
        ("ddpm", "linear", {}, {}),
        ("ddim", "cosine", {"eta": 0.5}, {"guidance_scale": 3.0}),
        ("euler", "flow", {}, {"guidance_scale": 0.0}),
        ("dpmpp_2m", "linear", {"spacing": "lam"}, {"guidance_scale": np.array([1, 2, 3, 0.5])}),
        ("heun", "linear", {}, {"guidance_scale": 2.0, "guidance_interval": (0.2, 0.7)}),
        ("midpoint", "flow", {}, {"guidance_scale": 4.0, "guidance_rescale": 0.7}),
        ("ddim", "linear", {}, {"guidance_scale": 0.0, "guidance_rescale": 0.7}),
        ("ddpm", "linear", {"strength": 0.5}, {"start_from": PICTURE, "guidance_scale": 2.0}),
        ("ddim", "linear", {}, {"start_from": PICTURE, "keep": np.tile(LEFT, (8, 1))}),
        ("ddpm", "linear", {"variance": "beta"}, {"to_seed": 8}),
        ("ddim", "flow", {"eta": 1.0}, {"clip": False}),
    ],
)
def test_numpy_tensorflow_and_xla_agree(sampler, name, make, ask, small_networks):
    """One tableau, one network, the same noise: within float rounding."""
    plan = make_plan(SCHEDULES[name], sampler, 8, **make)
    labels = np.array([0, 2, 3, 2])
    denoise, loops = small_networks
    size = {"image_shape": IMAGE_SHAPE, "num_classes": NUM_CLASSES, "seed": 3}
    expected = sampling.sample(denoise, plan, labels, **size, **ask)
    assert np.mean((expected > 0) & (expected < 1)) > 0.05  # not all of it clipped away
    ask = {name.removeprefix("guidance_"): value for name, value in ask.items()}
    ask = {("guidance_scale" if name == "scale" else name): value for name, value in ask.items()}
    for run in loops:
        images = tensorflow_sample(run, plan, labels, seed=3, **ask)
        np.testing.assert_allclose(images, expected, atol=5e-5)


def test_row_by_row_is_the_same(small_networks):
    """With a callback every row is a call of its own; what it hands out leads to the images."""
    denoise, loops = small_networks
    plan, labels = make_plan(LINEAR, "ddpm", 6, strength=0.5), np.array([0, 1, 1])
    image = {"start_from": PICTURE}
    seen = []
    for run in loops:
        seen.append([])
        ask = {"guidance_scale": 2.0, **image}
        whole = tensorflow_sample(run, plan, labels, **ask)
        rows = tensorflow_sample(run, plan, labels, callback=seen[-1].append, **ask)
        np.testing.assert_allclose(whole, rows, atol=1e-5)
        np.testing.assert_array_equal(seen[-1][-1].x0, rows)
    size = {"image_shape": IMAGE_SHAPE, "num_classes": NUM_CLASSES, "guidance_scale": 2.0}
    seen.append([])
    sampling.sample(denoise, plan, labels, callback=seen[-1].append, **size, **image)
    for handed in seen:
        assert [estimate.row for estimate in handed] == list(range(6))
        assert {estimate.num_rows for estimate in handed} == {6}
        np.testing.assert_allclose([estimate.t for estimate in handed], plan.t / 300)
        assert np.abs(handed[0].x0 - handed[-1].x0).max() > 0.01
        for one, other in zip(handed, seen[0], strict=True):
            np.testing.assert_allclose(one.x0, other.x0, atol=5e-5)


@pytest.fixture(scope="module")
def small_networks():
    """A random network as a NumPy callable, and the loops around it, plain and under XLA."""
    tf = pytest.importorskip("tensorflow")
    from keras_diffusion import compiled

    network = make_unet(num_classes=NUM_CLASSES, seed=5)

    def tensors(x, t, label):
        return network({"x": x, "t": t, "label": label}, training=False)

    graph = tf.function(tensors, reduce_retracing=True)
    loops = [
        compiled.SamplingLoop(tensors, null_label=NUM_CLASSES, jit_compile=jit_compile)
        for jit_compile in (False, True)
    ]
    return lambda x, t, label: graph(x, t, label).numpy(), loops


def colourful(x, t, label):
    """A quick network whose answer depends on everything."""
    return np.tanh(x) * (1 + label[:, None, None, None]) * t[:, None, None, None]


SIZE = {"image_shape": IMAGE_SHAPE, "num_classes": NUM_CLASSES}


def test_image_k_does_not_depend_on_the_others():
    plan = make_plan(LINEAR, "ddpm", 6)
    make = {**SIZE, "guidance_scale": 2.0, "seed": 9}
    few = sampling.sample(colourful, plan, [1, 2], **make)
    many = sampling.sample(colourful, plan, [2, 0, 1, 1, 2], **make)
    np.testing.assert_allclose(few, many[[2, 0]], atol=1e-6)
    chosen = sampling.sample(colourful, plan, [1], indices=[1], **make)
    np.testing.assert_allclose(chosen, many[[3]], atol=1e-6)
    assert np.abs(many[2] - many[3]).max() > 0.01


@pytest.mark.parametrize("bound", [("MAX_IMAGES", 3), ("MAX_NOISE_BYTES", 3 * 4 * 2 * 64)])
def test_chunks_change_nothing(bound, monkeypatch):
    plan, labels = make_plan(LINEAR, "ddpm", 4), [0, 1, 2, 2, 1, 0, 0]
    keep = np.random.default_rng(0).random((7, *IMAGE_SHAPE)) < 0.3
    make = {
        **SIZE,
        "guidance_scale": np.linspace(0, 3, 7),
        "start_from": np.random.default_rng(1).random((7, *IMAGE_SHAPE)),
        "keep": keep,
        "to_seed": 5,
    }
    whole, sizes, seen = sampling.sample(colourful, plan, labels, **make), set(), []

    def network(x, t, label):
        sizes.add(len(x))
        return colourful(x, t, label)

    monkeypatch.setattr(request, *bound)
    parts = sampling.sample(network, plan, labels, callback=seen.append, **make)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert sizes == {6, 2}  # two branches of 3, 3 and 1 images
    assert [estimate.images for estimate in seen[::4]] == [slice(0, 3), slice(3, 6), slice(6, 7)]


def ask(labels=(0, 0), **options):
    return request.make(list(labels), **SIZE, **options)


def test_only_noise_that_is_drawn_counts_for_the_memory(monkeypatch):
    monkeypatch.setattr(request, "MAX_NOISE_BYTES", 3 * 4 * 5 * 64)
    asked = ask([0] * 20)
    assert asked.chunks(make_plan(LINEAR, "ddpm", 4))[0] == slice(0, 3)
    assert asked.chunks(make_plan(LINEAR, "ddim", 4))[0] == slice(0, 15)
    assert asked.chunks(make_plan(LINEAR, "ddpm", 4), rows=1)[0] == slice(0, 7)
    assert asked.chunks(make_plan(LINEAR, "ddim", 4), rows=1)[0] == slice(0, 15)


def test_row_by_row_one_rows_noise_is_held_at_once(monkeypatch):
    """So there the chunks are larger: a callback makes them 7, 7 and 6 images, not 3 each."""
    monkeypatch.setattr(request, "MAX_NOISE_BYTES", 3 * 4 * 5 * 64)
    plan, seen = make_plan(LINEAR, "ddpm", 4), []
    sampling.sample(colourful, plan, [0] * 20, callback=seen.append, **SIZE)
    assert [part.images for part in seen[::4]] == [slice(0, 7), slice(7, 14), slice(14, 20)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["network", "callback"])
def test_the_bar_is_closed_whatever_is_raised(where, error, monkeypatch):
    tqdm, bars = pytest.importorskip("tqdm"), []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    def fail(*_):
        raise error

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    ask = {"progress": True, "callback": fail, **SIZE}
    with pytest.raises(error):
        network = fail if where == "network" else colourful
        sampling.sample(network, make_plan(LINEAR, "ddim", 3), [0], **ask)
    assert [bar.disable for bar in bars] == [True]  # what closing does


def test_images_are_the_last_state_not_the_last_estimate():
    """They differ for "midpoint" alone, whose last row is 2*x0' - x0_before."""

    def network(x, t, label):
        return 0.1 * colourful(x, t, label) + 0.3

    plan = samplers.plan(SCHEDULES["flow"], "x0", sampler="midpoint", num_steps=2)
    images = sampling.sample(network, plan, [1, 2], clip=False, **SIZE)
    label = np.array([1, 2])

    def alone(x, t):
        return network(x, np.full(2, t / 300), label)

    expected, _ = run_alone(alone, plan, ask([1, 2]).start(plan).astype(np.float64))
    np.testing.assert_allclose(images, np.clip(expected, 0, 1), atol=1e-5)


def test_noise_of_a_request():
    """Draw 0 is the start, draw i + 1 is row i's; rows without noise draw none."""
    keys = noise.image_keys(0, [0, 0], [0, 1])
    plan, asked = make_plan(LINEAR, "ddpm", 4), ask()
    first = noise.normal(keys, draw=0, shape=IMAGE_SHAPE)
    np.testing.assert_array_equal(asked.start(plan), first)
    steps = asked.row_noise(plan, range(4))
    for i in range(3):
        np.testing.assert_array_equal(steps[i], noise.normal(keys, draw=i + 1, shape=IMAGE_SHAPE))
        np.testing.assert_array_equal(asked.row_noise(plan, range(i, i + 1))[0], steps[i])
    assert not steps[3].any()
    steps = asked.row_noise(make_plan(LINEAR, "ddim", 4), range(4))
    assert steps.shape == (4, 1, 1, 1, 1) and not steps.any()


# ---- starting from an image, keeping a part of one, between two seeds


@pytest.mark.parametrize("strength", [0.4, 0.99])
@pytest.mark.parametrize("name", SCHEDULES)
def test_starting_from_an_image(name, strength):
    """The state that the first call sees is the image noised to strength*T, and no call is above that."""
    schedule, called = SCHEDULES[name], []

    def network(x, t, label):
        called.append((x.copy(), t[0] * 300))
        return np.zeros_like(x)

    plan = samplers.plan(schedule, "x0", sampler="ddpm", num_steps=5, strength=strength)
    sampling.sample(network, plan, [0, 1], start_from=PICTURE, **SIZE)
    alpha, sigma = schedule.at(300 * strength)
    eps = noise.normal(noise.image_keys(0, [0, 1], [0, 0]), draw=0, shape=IMAGE_SHAPE)
    np.testing.assert_allclose(called[0][0], alpha * PICTURE + sigma * eps, atol=1e-6)
    expected = 300 * strength * np.linspace(1, 0, 6)[:-1]
    np.testing.assert_allclose([t for _, t in called], expected, atol=0.5 + 1e-4)


def test_starting_below_the_top_needs_an_image():
    plan = make_plan(LINEAR, "ddpm", 5, strength=0.5)
    with pytest.raises(ValueError, match="strength: expected start_from as well, got none"):
        sampling.sample(colourful, plan, [0], **SIZE)


def test_frames_are_joined_over_chunks(monkeypatch):
    monkeypatch.setattr(request, "MAX_IMAGES", 3)
    plan, frames = make_plan(LINEAR, "ddpm", 9), Frames(7, most=3)
    images = sampling.sample(colourful, plan, [0] * 7, callback=frames, **SIZE)
    assert list(frames.kept) == [0, 3, 6, 8] and frames.all().shape == (4, 7, *IMAGE_SHAPE)
    np.testing.assert_array_equal(frames.all()[-1], images)
    assert (np.ptp(frames.all(), axis=(2, 3, 4)) > 0.1).all()


def test_at_full_strength_nothing_of_the_image_is_left():
    plan = make_plan(LINEAR, "ddpm", 5)
    plain = sampling.sample(colourful, plan, [0, 1], **SIZE)
    started = sampling.sample(colourful, plan, [0, 1], start_from=PICTURE, **SIZE)
    np.testing.assert_array_equal(plain, started)


@pytest.mark.parametrize(("sampler", "options", "name"), on_schedules([*MARGINAL, BETA]))
def test_kept_pixels_stay_exactly(sampler, options, name):
    plan = samplers.plan(SCHEDULES[name], "x0", sampler=sampler, num_steps=5, **options)
    keep = np.random.default_rng(0).random((8, 8)) < 0.5
    kept = sampling.sample(colourful, plan, [0, 1], start_from=PICTURE, keep=keep, **SIZE)
    plain = sampling.sample(colourful, plan, [0, 1], **SIZE)
    np.testing.assert_array_equal(kept[:, keep], np.stack([PICTURE[keep]] * 2))
    np.testing.assert_array_equal(kept[:, ~keep], plain[:, ~keep])  # this network mixes no pixels
    assert np.abs(plain[:, keep] - PICTURE[keep]).max() > 0.1


@pytest.mark.parametrize(
    ("sampler", "name"), [("ddpm", "cosine"), ("ddim", "linear"), ("dpmpp_2m", "linear")]
)
def test_kept_pixels_pass_through_the_marginals(sampler, name):
    """Before row k the kept pixels hold alpha*image + sigma*noise, as if the image had just been noised."""
    states, plan = [], make_plan(SCHEDULES[name], sampler, 6)

    def network(x, t, label):
        states.append(x)
        return np.zeros_like(x)

    keep, half = np.ones((8, 8), bool), np.full(IMAGE_SHAPE, 0.5, np.float32)
    labels = [0] * 64
    sampling.sample(network, plan, labels, start_from=half, keep=keep, **SIZE)
    for x, alpha, sigma in zip(states, plan.alpha, plan.sigma, strict=True):
        assert abs(x.mean() - 0.5 * alpha) < 0.05 and abs(x.std() - sigma) < 0.03


def test_between_two_seeds():
    """From seed's first picture to to_seed's, in steps; on the way the noise stays standard normal."""
    plan, labels = make_plan(LINEAR, "ddpm", 5), [1, 1, 1, 2, 2]
    path = sampling.sample(colourful, plan, labels, seed=3, to_seed=8, **SIZE)
    for seed, ends in ((3, [0, 3]), (8, [2, 4])):
        alone = sampling.sample(colourful, plan, [1, 2], seed=seed, **SIZE)
        np.testing.assert_allclose(path[ends], alone, atol=1e-6)
    assert np.abs(path[1] - path[0]).max() > 0.01 and np.abs(path[1] - path[2]).max() > 0.01
    fraction = np.tile([0.2, 0.5], 100)
    between = ask([0] * 200, to_seed=1, fraction=fraction, indices=np.arange(200)).start(plan)
    assert abs(between.std() - 1) < 0.01 and abs(between.mean()) < 0.01
    first, second = (ask([0] * 200, seed=seed).start(plan) for seed in (0, 1))
    angle = (fraction * np.pi / 2)[:, None, None, None]
    expected = np.cos(angle) * first + np.sin(angle) * second
    np.testing.assert_allclose(between, expected, atol=1e-6)


# ---- guidance


class Recorder:
    """A network that answers by label: 10 for the null label 3, else the label itself; it keeps what it was asked."""

    def __init__(self):
        self.labels = []

    def __call__(self, x, t, label):
        assert len(x) == len(t) == len(label) and x.dtype == t.dtype == np.float32
        self.labels.append(label.tolist())
        value = np.where(label == NUM_CLASSES, 10, label).astype(np.float32)
        return 0 * x + value[:, None, None, None]


def guide(scale, *, labels=(0, 2, NUM_CLASSES)):
    """One call at a guidance scale: what each image got, and which labels the network saw."""
    network = Recorder()
    plan = samplers.plan(LINEAR, "x0", sampler="ddim", num_steps=2)
    out = sampling.sample(network, plan, list(labels), guidance_scale=scale, clip=False, **SIZE)
    assert out.shape == (3, *IMAGE_SHAPE) and out.dtype == np.float32
    assert network.labels[0] == network.labels[1]
    return network.labels[:1]


def test_guidance_of_one_is_one_branch():
    assert guide(1.0) == [[0, 2, 3]]
    assert guide([1, 1, 1]) == [[0, 2, 3]]


def test_guidance_of_zero_is_the_unconditional_branch_alone():
    assert guide(0.0) == [[3, 3, 3]]


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, [0.5, 2.0, 5.0]])
def test_images_of_no_class_need_no_second_branch(scale, rescale, small_networks):
    """uncond + scale*(uncond - uncond): whatever the scale, what they get at 1."""
    plan, labels, network = make_plan(LINEAR, "ddim", 2), [NUM_CLASSES] * 3, Recorder()
    ask = {"guidance_scale": scale, "guidance_rescale": rescale}
    sampling.sample(network, plan, labels, **ask, **SIZE)
    assert network.labels == [labels] * 2
    denoise, loops = small_networks
    expected = sampling.sample(denoise, plan, labels, **SIZE)
    np.testing.assert_array_equal(sampling.sample(denoise, plan, labels, **ask, **SIZE), expected)
    images = tensorflow_sample(loops[0], plan, labels, guidance_scale=scale, rescale=rescale)
    np.testing.assert_allclose(images, expected, atol=5e-5)


@pytest.mark.parametrize(
    ("labels", "scale", "size"),
    [([NUM_CLASSES] * 3, 5.0, 3), ([0, 1, NUM_CLASSES], 0.0, 3), ([0, 1, NUM_CLASSES], 5.0, 6)],
)
def test_tensorflow_computes_the_branches_it_needs(labels, scale, size):
    """Traced once: the shape is what the network is called with."""
    compiled = pytest.importorskip("keras_diffusion.compiled")
    sizes = []

    def network(x, t, label):
        sizes.append(x.shape[0])
        return 0 * x

    run = compiled.SamplingLoop(network, null_label=NUM_CLASSES, jit_compile=False)
    tensorflow_sample(run, make_plan(LINEAR, "ddim", 2), labels, guidance_scale=scale)
    assert set(sizes) == {size}


def combine(scale, rescale=0.0, network=None):
    both = guidance.guided(
        network or Recorder(), null_label=NUM_CLASSES, ops=loop._OPS, rescale=rescale
    )
    label = np.array([0, 2, NUM_CLASSES])
    return both(np.zeros((3, *IMAGE_SHAPE), np.float32), np.ones(3, np.float32), label, scale)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 5.0])
def test_guidance_goes_through_a_doubled_batch(scale):
    """uncond + scale*(cond - uncond); an image of no class stays unconditional whatever the scale."""
    assert guide(scale) == [[0, 2, 3, 3, 3, 3]]
    out = combine(scale)[:, 0, 0, 0]
    np.testing.assert_allclose(out, [10 + scale * (0 - 10), 10 + scale * (2 - 10), 10])


def test_guidance_with_a_scale_for_each_image():
    out = combine(np.array([1.0, 2.0, 3.0])[:, None, None, None])[:, 0, 0, 0]
    np.testing.assert_allclose(out, [0, 10 + 2 * (2 - 10), 10])
    plan, labels = make_plan(LINEAR, "ddim", 3), [0, 1, 2]
    scales = [0.0, 1.0, 4.0]
    together = sampling.sample(colourful, plan, labels, guidance_scale=scales, **SIZE)
    for k, scale in enumerate(scales):
        alone = sampling.sample(colourful, plan, [labels[k]], guidance_scale=scale, **SIZE)
        np.testing.assert_allclose(together[[k]], alone, atol=1e-6)


def test_guidance_interval():
    """One branch outside of it, two inside; the ends belong to it."""
    network = Recorder()
    plan = samplers.plan(LINEAR, "x0", sampler="ddim", num_steps=10)
    ask = {"guidance_scale": 2.0, "guidance_interval": (0.3, 0.6), **SIZE}
    sampling.sample(network, plan, [0], **ask)
    doubled = [len(labels) == 2 for labels in network.labels]
    assert doubled == [False] * 4 + [True] * 4 + [False] * 2


def test_guidance_interval_is_in_t_wherever_sampling_starts():
    plan = samplers.plan(LINEAR, "x0", sampler="ddim", num_steps=5, strength=0.5)
    np.testing.assert_array_equal(guidance.weights(plan, (0.25, 0.45)), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(guidance.weights(plan), np.ones(5))


def test_rescaled_guidance_has_the_spread_of_the_branch_with_a_class():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(6, *IMAGE_SHAPE)) * np.array([1, 2, 3, 1, 1, 1])[:, None, None, None]
    cond, plain = outputs[:3], combine(5.0, network=lambda x, t, label: outputs)
    spread = (1, 2, 3)
    for rescale in (0.0, 0.3, 1.0):
        out = combine(5.0, rescale, network=lambda x, t, label: outputs)
        expected = rescale * cond.std(axis=spread) + (1 - rescale) * plain.std(axis=spread)
        np.testing.assert_allclose(out.std(axis=spread), expected)
        np.testing.assert_allclose(
            out / plain, np.broadcast_to((out / plain)[:, :1, :1], out.shape)
        )


@pytest.mark.parametrize("rescale", [0.3, 1.0])
@pytest.mark.parametrize("level", [0.0, 0.3, -7.7])
def test_rescaled_guidance_leaves_a_constant_as_it_is(level, rescale):
    """A spread of 0 can't be brought to another, of the branch with a class or 0 too; in float32 it may be rounding."""
    compiled = pytest.importorskip("keras_diffusion.compiled")
    varied = np.linspace(-1, 1, 64, dtype=np.float32).reshape(IMAGE_SHAPE)
    flat = np.full(IMAGE_SHAPE, level, np.float32)
    outputs = np.stack([varied, flat, varied, flat, flat, 0 * varied])  # [cond] * 3 + [uncond] * 3
    x, t, label = np.zeros((3, *IMAGE_SHAPE), np.float32), np.ones(3, np.float32), np.arange(3)
    scale = np.array([0, 5, 1], np.float32)[:, None, None, None]
    make = {"null_label": NUM_CLASSES, "rescale": rescale}
    in_numpy = guidance.guided(lambda *_: outputs, ops=loop._OPS, **make)
    in_tensorflow = guidance.guided(
        lambda *_: compiled.tf.constant(outputs), ops=compiled._OPS, **make
    )
    # Under XLA the outputs must be an argument, or they are worked out beforehand.
    in_xla = compiled.tf.function(
        lambda given, *inputs: guidance.guided(lambda *_: given, ops=compiled._OPS, **make)(
            *inputs
        ),
        jit_compile=True,
        autograph=False,
    )
    for both in (in_numpy, in_tensorflow, lambda *inputs: in_xla(outputs, *inputs)):
        out = np.asarray(both(x, t, label, scale))
        np.testing.assert_allclose(out, [flat, flat, varied], rtol=1e-5, atol=1e-6)


# ---- what is refused

LONG = np.arange(400.0)  # its repr takes 37 lines


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: make_plan(LINEAR, "pndm"), "sampler: expected one of .* got 'pndm'"),
        (lambda: make_plan(LINEAR, ["ddim"]), "sampler: expected one of .* got \\['ddim'\\]"),
        (lambda: make_plan(LINEAR, LONG), "sampler: expected one of .* got array.* \\.\\.\\."),
        (
            lambda: make_plan(LINEAR, "ddim", variance="beta"),
            "options \\('eta',\\), got 'variance'",
        ),
        (lambda: make_plan(LINEAR, "ddim", eta=1.5), "eta: expected .* got 1.5"),
        (lambda: make_plan(LINEAR, "ddim", eta=math.nan), "eta: expected .* got nan"),
        (lambda: make_plan(LINEAR, "ddim", eta=None), "eta: expected a number in .* got None"),
        (lambda: make_plan(LINEAR, "ddim", eta="a"), "eta: expected a number in .* got 'a'"),
        (lambda: make_plan(LINEAR, "ddim", eta=True), "eta: expected a number in .* got True"),
        (lambda: make_plan(LINEAR, "ddim", eta=LONG), "eta: expected a number in .* got array"),
        (lambda: make_plan(LINEAR, "ddpm", variance="large"), "variance: .* got 'large'"),
        (lambda: make_plan(LINEAR, "ddpm", variance=["beta"]), "variance: .* got \\['beta'\\]"),
        (lambda: make_plan(LINEAR, "ddpm", variance=np.array(["beta"])), "variance: .* got array"),
        (lambda: make_plan(LINEAR, "ddpm", 0), "num_steps: expected an integer in 1..300, got 0"),
        (lambda: make_plan(LINEAR, "ddpm", 301), "num_steps: .* got 301"),
        (lambda: make_plan(LINEAR, "ddpm", 2.5), "num_steps: .* got 2.5"),
        (lambda: make_plan(LINEAR, "ddpm", True), "num_steps: .* got True"),
        (lambda: make_plan(LINEAR, "ddpm", LONG), "num_steps: .* got array"),
        (lambda: make_plan(LINEAR, "ddpm", True, spacing=[300]), "num_steps: .* got True"),
        (lambda: make_plan(LINEAR, "ddpm", LONG, spacing=[300]), "num_steps: .* got array"),
        (lambda: make_plan(LINEAR, "euler"), "euler: expected a flow schedule.* use ddim"),
        (lambda: make_plan(BENT, "euler", 2), "euler: expected a flow schedule"),
        (lambda: make_plan(SCHEDULES["flow"], "ddim", 301), "num_steps: .* 1..300, got 301"),
        (lambda: make_plan(LINEAR, "midpoint"), "midpoint: expected a flow schedule.* use heun"),
        (lambda: make_plan(LINEAR, "heun", strength=0), "strength: .* got 0"),
        (lambda: make_plan(LINEAR, "heun", strength=1.01), "strength: .* got 1.01"),
        (lambda: make_plan(LINEAR, "heun", strength="half"), "strength: .* got 'half'"),
        (lambda: make_plan(LINEAR, "heun", strength=LONG), "strength: .* got array"),
        (lambda: make_plan(LINEAR, "ddim", 200, strength=0.5), "num_steps: .* 1..150, got 200"),
        (lambda: make_plan(LINEAR, "ddim", spacing="log"), "spacing: expected one of .* 'log'"),
        (
            lambda: make_plan(LINEAR, "ddim", spacing=[300, 100, 200]),
            "spacing: .* 300 to above 0, got 200.0 in place 3",
        ),
        (
            lambda: make_plan(LINEAR, "ddim", spacing=[299, 100]),
            "spacing: .* fall from 300 to above 0, got 299.0 in place 1",
        ),
        (lambda: make_plan(LINEAR, "ddim", spacing=[300, 0]), "spacing: .* got 0.0 in place 2"),
        (lambda: make_plan(LINEAR, "ddim", spacing=[300, -1, -2]), "spacing: .* -1.0 in place 2"),
        (lambda: make_plan(LINEAR, "ddim", spacing=[300, math.nan]), "spacing: .* nan in place 2"),
        (lambda: make_plan(LINEAR, "ddim", spacing=LONG[::-1]), "spacing: .* 399.0 in place 1"),
        (lambda: make_plan(LINEAR, "ddim", spacing=[]), "spacing: .* above 0, got none"),
        (lambda: make_plan(LINEAR, "ddim", spacing=["a"]), "spacing: .* got \\['a'\\]"),
        (lambda: make_plan(LINEAR, "ddim", spacing={300: 0}), "spacing: .* got {300: 0}"),
        (lambda: make_plan(LINEAR, "ddim", 5, spacing=[300, 9]), "num_steps: expected 2 as in"),
        (
            lambda: samplers.plan(SCHEDULES["flow"], "eps", sampler="ddim"),
            "tableau column p: not finite in row 0",
        ),
        (lambda: samplers.plan(LINEAR, "score"), "prediction: expected one of .* got 'score'"),
        (lambda: samplers.plan(LINEAR, ["eps"]), "prediction: expected one of .* got \\['eps'\\]"),
        (lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), (0.5, 0.5)), "guidance_interval: "),
        (lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), 0.5), "guidance_interval: .* 0.5"),
        (lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), (0, 2)), "guidance_interval: .* 2"),
        (lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), (-1, 1)), "guidance_interval: "),
        (
            lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), ("a", "b")),
            "guidance_interval: .* got \\('a', 'b'\\)",
        ),
        (
            lambda: guidance.weights(make_plan(LINEAR, "ddim", 2), LONG),
            "guidance_interval: .* got array",
        ),
        (lambda: combine(2.0, rescale=1.5), "guidance_rescale: .* got 1.5"),
        (lambda: combine(2.0, rescale=None), "guidance_rescale: .* got None"),
        (lambda: combine(2.0, rescale=LONG), "guidance_rescale: .* got array"),
        (lambda: ask(guidance_scale="5"), "guidance_scale: .* got '5'"),
        (lambda: ask(guidance_scale=[1, 2, 3]), "guidance_scale: expected a number or 2 of them"),
        (lambda: ask(guidance_scale=math.inf), "guidance_scale: .* got inf"),
        (lambda: ask(fraction=[0, 1]), "fraction: expected to_seed as well"),
        (lambda: ask(to_seed=1, fraction=[0, 2]), "fraction: expected 2 numbers in .* 2"),
        (lambda: ask(to_seed=-1), "seed: .* got -1"),
        (lambda: ask(start_from=PICTURE * 255), "start_from: .* got 0.0..255.0"),
        (lambda: ask(start_from=PICTURE * np.nan), "start_from: .* got nan"),
        (lambda: ask(start_from=np.zeros(IMAGE_SHAPE, int)), "start_from: .* got int64"),
        (lambda: ask(start_from=PICTURE[:4]), "start_from: .* got float32 \\(4, 8, 1\\)"),
        (lambda: ask(keep=np.ones((8, 8), bool)), "keep: expected start_from as well"),
        (lambda: ask(start_from=PICTURE, keep=np.ones((8, 8))), "keep: .* got float64"),
        (lambda: ask(start_from=PICTURE, keep=np.ones((8, 4), bool)), "keep: .* \\(8, 4, 1\\)"),
        (lambda: request.check_labels([], 10), "labels: expected a list of at least one"),
        (lambda: request.check_labels([0.5], 10), "labels: .* float64"),
        (lambda: request.check_labels([[1]], 10), "labels: .*\\(1, 1\\)"),
        (lambda: request.check_labels([3, 11], 10), "labels: expected 0..10 .* got 11"),
        (lambda: request.check_labels([-1], 10), "labels: .* got -1"),
        (lambda: request.check_labels([1], 0), "labels: expected 0..0 .* got 1"),
    ],
)
def test_errors(make, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make()
    one_line(error)


COLUMNS = {name: [0.5, 0.5] for name in ("alpha", "sigma", "p", "q", "a", "b", "d", "c")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"a": [0.5]}, "column a: expected shape .*\\(2,\\), got \\(1,\\)"),
        ({"c": [0.5, math.nan]}, "column c: not finite in row 1"),
        ({"t": [5.0, 0.0]}, "expected times in \\(0, 10\\]"),
        ({"t": [11.0, 1.0]}, "expected times in \\(0, 10\\], got 11.0"),
        (
            dict.fromkeys(("t", *COLUMNS), LONG / 20),
            "expected times in \\(0, 10\\], got 0.0",
        ),
    ],
)
def test_a_tableau_is_checked(change, expected):
    columns = {"t": [5.0, 1.0], **COLUMNS, **change}
    with pytest.raises(ValueError, match=expected) as error:
        tableau.Tableau(**columns, num_train_steps=10)
    one_line(error)


def test_sharpened_pixels_go_to_black_and_white_and_keep_their_order():
    x0 = np.linspace(0, 1, 1001).astype(np.float32)
    np.testing.assert_array_equal(tableau.sharpened(x0, 0.0), x0)
    whole = tableau.sharpened(x0.astype(np.float64), 1.0)
    np.testing.assert_allclose(whole, 3 * x0.astype(np.float64) ** 2 - 2 * x0.astype(np.float64) ** 3, atol=1e-12)  # fmt: skip
    for e in (0.3, 1.0):
        drawn = tableau.sharpened(x0.astype(np.float64), e)
        assert (drawn[[0, 500, 1000]] == [0, 0.5, 1]).all() and (np.diff(drawn) > 0).all()
        assert (drawn[1:500] < x0[1:500]).all() and (drawn[501:-1] > x0[501:-1]).all()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "heun"])
def test_only_what_is_drawn_at_the_end_is_sharpened(sampler):
    def network(x, t, label):
        return 0.3 * x + t[:, None, None, None]

    plain, sharp = (
        samplers.plan(LINEAR, "eps", sampler=sampler, num_steps=4, sharpen=e) for e in (0.0, 0.7)
    )
    np.testing.assert_array_equal(plain.rows[:, :-1], sharp.rows[:, :-1])
    assert (sharp.e[:-1] == 0).all() and sharp.e[-1] == 0.7
    soft = sampling.sample(network, plain, [0, 1], **SIZE)
    assert 0.01 < soft.std()
    drawn = sampling.sample(network, sharp, [0, 1], **SIZE)
    np.testing.assert_allclose(drawn, tableau.sharpened(soft, 0.7), atol=1e-6)
    assert np.abs(drawn - soft).max() > 0.01


def test_unclipped_pixels_beyond_black_and_white_stay_there():
    plan = samplers.plan(LINEAR, "x0", num_steps=2, sharpen=1.0)
    values = np.linspace(-0.5, 1.5, 64).reshape(1, 8, 8, 1).astype(np.float32)
    asked = ask([0])
    run = loop.runner(lambda x, t, label: values, null_label=NUM_CLASSES, clip=False)
    weights = guidance.weights(plan)
    fresh = np.zeros((2, 1, *IMAGE_SHAPE), np.float32)
    x, _ = run(plan, asked.start(plan), np.zeros_like(values), asked, weights=weights, noise=fresh)
    inside = (values > 0) & (values < 1)
    np.testing.assert_allclose(x[~inside], values[~inside], atol=1e-6)
    np.testing.assert_allclose(x[inside], tableau.sharpened(values[inside], 1.0), atol=1e-6)


def test_kept_pixels_are_not_sharpened():
    def network(x, t, label):
        return 0.3 * x

    keep = np.random.default_rng(0).random((8, 8)) < 0.5
    plan = samplers.plan(LINEAR, "eps", num_steps=4, sharpen=1.0)
    drawn = sampling.sample(network, plan, [0, 1], start_from=PICTURE, keep=keep, **SIZE)
    np.testing.assert_array_equal(drawn[:, keep], np.stack([PICTURE[keep]] * 2))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True, "much", None])
def test_how_far_is_checked(value):
    with pytest.raises(ValueError, match="sharpen: expected a number in \\[0, 1\\], got") as error:
        samplers.plan(LINEAR, "eps", sharpen=value)
    one_line(error)


def test_what_doesnt_end_in_its_estimate_isnt_sharpened():
    flow = schedules.flow_schedule(300)
    with pytest.raises(ValueError, match="sharpen: expected 0 with sampler 'midpoint', got 0.5"):
        samplers.plan(flow, "flow", sampler="midpoint", num_steps=4, sharpen=0.5)
    assert samplers.plan(flow, "flow", sampler="midpoint", num_steps=4, sharpen=0.0).e.sum() == 0


def test_a_tableau_is_frozen():
    plan = make_plan(LINEAR, "ddim", 3)
    with pytest.raises(ValueError):
        plan.a[0] = 1
    with pytest.raises(AttributeError):
        plan.a = plan.b


def test_sampling_needs_numpy_alone(repo):
    """In a Python of its own, because this one may have loaded anything."""
    code = (
        "import sys, keras_diffusion.sampling, keras_diffusion.noise, keras_diffusion.schedules\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"tensorflow", "keras", "matplotlib", "torch", "jax", "scipy", "PIL"}
