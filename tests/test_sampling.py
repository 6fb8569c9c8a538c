"""Samplers: the mathematics of every row, and the same loop in NumPy, TensorFlow and XLA."""

import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet, one_line

from keras_diffusion import noise, sampling, schedules
from keras_diffusion.sampling import guidance, loop, samplers, tableau

LINEAR = schedules.linear_schedule(300)
SCHEDULES = {
    "linear": LINEAR,
    "cosine": schedules.cosine_schedule(300),
    "flow": schedules.flow_schedule(300),
}
# Every sampler whose rows draw from the forward process's own marginals.
MARGINAL = [
    ("ddim", {"eta": 0.0}),
    ("ddim", {"eta": 0.3}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {"variance": "beta_tilde"}),
    ("euler", {}),
]
BETA = ("ddpm", {"variance": "beta"})  # on purpose larger than the marginal allows


def on_schedules(cases):
    """(sampler, options, schedule's name) of everything that goes together: euler is for flows."""
    return [
        (sampler, options, name)
        for sampler, options in cases
        for name in SCHEDULES
        if sampler != "euler" or name == "flow"
    ]


# (sampler, options, order of convergence)
ORDERS = [("ddim", {}, 1)]


def make_plan(schedule, sampler, num_steps=None, **options):
    prediction = "flow" if schedule.continuous else "eps"
    return samplers.plan(schedule, prediction, sampler=sampler, num_steps=num_steps, **options)


# ---- the rows


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50, 300])
@pytest.mark.parametrize(("sampler", "options", "name"), on_schedules(MARGINAL))
def test_rows_preserve_the_marginal(sampler, options, name, num_steps):
    """With the true x0 and eps, a row takes alpha_t*x0 + sigma_t*eps to alpha_s*x0 + sigma_s*eps', in distribution."""
    schedule = SCHEDULES[name]
    plan = make_plan(schedule, sampler, num_steps, **options)
    assert len(plan) == num_steps
    alpha_t, sigma_t = schedule.at(plan.t)
    alpha_s, sigma_s = schedule.at(np.append(plan.t[1:], 0.0))
    np.testing.assert_allclose(plan.a * alpha_t + plan.b, alpha_s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.a**2 * sigma_t**2 + plan.c**2, sigma_s**2, rtol=0, atol=1e-12)
    assert (plan.c >= 0).all() and not plan.d.any()
    # How much of the noise is fresh: none at eta = 0, some at the others, in every row but the last.
    if sampler == "euler" or options.get("eta") == 0:
        assert not plan.is_stochastic
    elif num_steps > 1:
        assert (plan.c[:-1] > 0).all() and plan.is_stochastic


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 50, 300])
def test_eta_one_is_ddpm(name, num_steps):
    ddim = make_plan(SCHEDULES[name], "ddim", num_steps, eta=1.0)
    ddpm = make_plan(SCHEDULES[name], "ddpm", num_steps, variance="beta_tilde")
    np.testing.assert_allclose(ddim.rows, ddpm.rows, rtol=0, atol=1e-12)


def test_eta_scales_the_noise():
    whole, part = (make_plan(LINEAR, "ddim", 10, eta=eta) for eta in (1.0, 0.3))
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


@pytest.mark.parametrize("num_steps", [1, 3, 7, 299, 300])
def test_times(num_steps):
    times = samplers.uniform_times(LINEAR, num_steps)
    assert times[0] == 300 and times[-1] == 0 and len(times) == num_steps + 1
    assert (times == np.round(times)).all() and (np.diff(times) < 0).all()
    assert np.ptp(np.diff(times)) <= 1
    real = samplers.uniform_times(SCHEDULES["flow"], num_steps)
    np.testing.assert_allclose(real, 300 * np.arange(num_steps, -1, -1) / num_steps)


# ---- the loop


def run_alone(network, plan, x, *, steps=None, clip=lambda x: x):
    """The tableau in float64."""
    x0, states = np.zeros_like(x), [x]
    steps = np.zeros((len(plan), 1)) if steps is None else steps
    for t, row, fresh in zip(plan.t, plan.rows, steps, strict=True):
        x, x0 = tableau.step(x, x0, network(x, t), fresh, tableau.Row(*row), clip)
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
    np.testing.assert_allclose(called, samplers.uniform_times(schedule, num_steps)[:-1], atol=1e-4)


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


@pytest.mark.parametrize(("sampler", "options", "order"), ORDERS)
def test_order_of_convergence(sampler, options, order):
    """x0 ~ N(mu, s²): the best eps and the exact path of the probability flow are closed forms.

    On a fixed interval of half log-SNR, evenly spaced in it, at real times, without clipping.
    """
    mu, s = np.array([0.2, 0.8]), np.array([0.3, 0.5])

    def best_eps(x, t):
        alpha, sigma = LINEAR.at(t)
        return sigma * (x - alpha * mu) / (alpha**2 * s**2 + sigma**2)

    def exact(x, t, to):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = LINEAR.at(t), LINEAR.at(to)
        variance = [a**2 * s**2 + g**2 for a, g in ((alpha_t, sigma_t), (alpha_s, sigma_s))]
        return alpha_s * mu + np.sqrt(variance[1] / variance[0]) * (x - alpha_t * mu)

    def error(num_steps):
        grid = np.arange(1, 301)
        lam = np.linspace(LINEAR.lam(300), LINEAR.lam(20), num_steps + 1)
        times = np.interp(lam, LINEAR.lam(grid)[::-1], grid[::-1])
        plan = samplers.SAMPLERS[sampler](LINEAR, "eps", times, **options)
        x = np.array([1.3, -0.7])
        # Up to rounding in `times`, whose effect is far below the error.
        return np.abs(run_alone(best_eps, plan, x)[0] - exact(x, times[0], times[-1])).max()

    errors = np.array([error(num_steps) for num_steps in (20, 40, 80, 160)])
    slopes = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.15)


def test_euler_is_the_velocitys():
    """x_s = x_t + (t - s)/T * out, for the flow's own network."""
    plan = make_plan(SCHEDULES["flow"], "euler", 8)
    rng = np.random.default_rng(0)
    x, velocity = rng.normal(size=(2, 5))
    for i, row in enumerate(plan.rows):
        moved, _ = tableau.step(x, 0 * x, velocity, 0.0, tableau.Row(*row), lambda x: x)
        np.testing.assert_allclose(moved, x + velocity / 8, atol=1e-12, err_msg=f"row {i}")


def test_step_uses_every_column():
    row = tableau.Row(p=2.0, q=3.0, a=5.0, b=7.0, d=11.0, c=13.0)
    x, x0 = tableau.step(1.0, 10.0, 100.0, 1000.0, row, lambda x: min(x, 300.0))
    assert x0 == 300.0  # of 2*1 + 3*100, clipped
    assert x == 5.0 * 1 + 7.0 * 300 + 11.0 * 10 + 13.0 * 1000


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


@pytest.mark.parametrize(
    ("sampler", "options", "name", "scale"),
    [
        ("ddpm", {}, "linear", 1.0),
        ("ddim", {"eta": 0.5}, "cosine", 3.0),
        ("euler", {}, "flow", 0.0),
    ],
)
def test_numpy_tensorflow_and_xla_agree(sampler, options, name, scale, small_networks):
    """One tableau, one network, the same noise: within float rounding."""
    from keras_diffusion import compiled

    plan = make_plan(SCHEDULES[name], sampler, 8, **options)
    labels = np.array([0, 2, 3, 2])
    denoise, loops = small_networks
    expected = sampling.sample(
        denoise,
        plan,
        labels,
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        scale=scale,
        seed=3,
    )
    assert np.mean((expected > 0) & (expected < 1)) > 0.1  # not all of it clipped away

    keys = noise.image_keys(3, labels, noise.occurrence(labels))
    x, steps = loop.draw_noise(plan, keys, IMAGE_SHAPE)
    for run in loops:
        assert isinstance(run, compiled.SamplingLoop)
        images, estimates = run(plan, x=x, label=labels, scale=scale, noise=steps, trajectory=True)
        np.testing.assert_allclose(images.numpy(), expected, atol=5e-5)
        assert estimates.shape == (8, *images.shape)
        np.testing.assert_array_equal(estimates[-1].numpy(), images.numpy())
        assert np.abs(estimates[0].numpy() - images.numpy()).max() > 0.01


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


def test_image_k_does_not_depend_on_the_others():
    def network(x, t, label):
        return np.tanh(x) * (1 + label[:, None, None, None]) * t[:, None, None, None]

    plan = make_plan(LINEAR, "ddpm", 6)
    make = {"image_shape": IMAGE_SHAPE, "num_classes": NUM_CLASSES, "scale": 2.0, "seed": 9}
    few = sampling.sample(network, plan, [1, 2], **make)
    many = sampling.sample(network, plan, [2, 0, 1, 1, 2], **make)
    np.testing.assert_allclose(few, many[[2, 0]], atol=1e-6)
    chosen = sampling.sample(network, plan, [1], indices=[1], **make)
    np.testing.assert_allclose(chosen, many[[3]], atol=1e-6)
    assert np.abs(many[2] - many[3]).max() > 0.01


def test_draw_noise():
    """Draw 0 is the start, draw i + 1 is row i's; rows without noise draw none."""
    keys = noise.image_keys(0, [0, 0], [0, 1])
    plan = make_plan(LINEAR, "ddpm", 4)
    x, steps = loop.draw_noise(plan, keys, IMAGE_SHAPE)
    np.testing.assert_array_equal(x, noise.normal(keys, draw=0, shape=IMAGE_SHAPE))
    for i in range(3):
        np.testing.assert_array_equal(steps[i], noise.normal(keys, draw=i + 1, shape=IMAGE_SHAPE))
    assert not steps[3].any()
    x, steps = loop.draw_noise(make_plan(LINEAR, "ddim", 4), keys, IMAGE_SHAPE)
    assert steps.shape == (4, 1, 1, 1, 1) and not steps.any()


# ---- guidance


class Recorder:
    """A network that answers by label: 10 for the null label 3, else the label itself; it keeps what it was asked."""

    def __init__(self):
        self.labels = []

    def __call__(self, x, t, label):
        assert len(x) == len(t) == len(label)
        self.labels.append(label.tolist())
        value = np.where(label == NUM_CLASSES, 10.0, label)
        return 0 * x + value[:, None, None, None]


def guide(scale):
    network = Recorder()
    out = guidance.guided(
        network,
        scale=scale,
        null_label=NUM_CLASSES,
        concat=lambda a, b: np.concatenate([a, b]),
        split=lambda out: np.split(out, 2),
    )(np.zeros((3, *IMAGE_SHAPE)), np.ones(3), np.array([0, 2, NUM_CLASSES]))
    assert out.shape == (3, *IMAGE_SHAPE) and (np.ptp(out, axis=(1, 2, 3)) == 0).all()
    return out[:, 0, 0, 0].tolist(), network.labels


def test_guidance_of_one_is_one_branch():
    assert guide(1.0) == ([0, 2, 10], [[0, 2, 3]])


def test_guidance_of_zero_is_the_unconditional_branch_alone():
    assert guide(0.0) == ([10, 10, 10], [[3, 3, 3]])


@pytest.mark.parametrize("scale", [0.5, 2.0, 5.0])
def test_guidance_goes_through_a_doubled_batch(scale):
    """uncond + scale*(cond - uncond); an image of no class stays unconditional whatever the scale."""
    out, labels = guide(scale)
    assert labels == [[0, 2, 3, 3, 3, 3]]
    np.testing.assert_allclose(out, [10 + scale * (0 - 10), 10 + scale * (2 - 10), 10])


def test_guidance_with_a_scale_for_each_image():
    out, _ = guide(np.array([1.0, 2.0, 3.0])[:, None, None, None])
    np.testing.assert_allclose(out, [0, 10 + 2 * (2 - 10), 10])


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: make_plan(LINEAR, "pndm"), "sampler: expected one of .* got 'pndm'"),
        (
            lambda: make_plan(LINEAR, "ddim", variance="beta"),
            "options \\('eta',\\), got 'variance'",
        ),
        (lambda: make_plan(LINEAR, "ddim", eta=1.5), "eta: expected .* got 1.5"),
        (lambda: make_plan(LINEAR, "ddim", eta=math.nan), "eta: expected .* got nan"),
        (lambda: make_plan(LINEAR, "ddpm", variance="large"), "variance: .* got 'large'"),
        (lambda: make_plan(LINEAR, "ddpm", 0), "num_steps: expected an integer in 1..300, got 0"),
        (lambda: make_plan(LINEAR, "ddpm", 301), "num_steps: .* got 301"),
        (lambda: make_plan(LINEAR, "ddpm", 2.5), "num_steps: .* got 2.5"),
        (lambda: make_plan(LINEAR, "euler"), "euler: expected a flow schedule"),
        (
            lambda: samplers.plan(SCHEDULES["flow"], "eps", sampler="ddim"),
            "tableau column p: not finite in row 0",
        ),
        (lambda: samplers.plan(LINEAR, "score"), "prediction: expected one of .* got 'score'"),
        (lambda: loop.check_labels([], 10), "labels: expected a list of at least one"),
        (lambda: loop.check_labels([0.5], 10), "labels: .* float64"),
        (lambda: loop.check_labels([[1]], 10), "labels: .*\\(1, 1\\)"),
        (lambda: loop.check_labels([3, 11], 10), "labels: expected 0..10 .* got 11"),
        (lambda: loop.check_labels([-1], 10), "labels: .* got -1"),
        (lambda: loop.check_labels([1], 0), "labels: expected 0..0 .* got 1"),
    ],
)
def test_errors(make, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make()
    one_line(error)


COLUMNS = {name: [0.5, 0.5] for name in ("p", "q", "a", "b", "d", "c")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"a": [0.5]}, "column a: expected shape .*\\(2,\\), got \\(1,\\)"),
        ({"c": [0.5, math.nan]}, "column c: not finite in row 1"),
        ({"t": [5.0, 0.0]}, "expected times in \\(0, 10\\]"),
        ({"t": [11.0, 1.0]}, "expected times in \\(0, 10\\]"),
    ],
)
def test_a_tableau_is_checked(change, expected):
    columns = {"t": [5.0, 1.0], **COLUMNS, **change}
    with pytest.raises(ValueError, match=expected) as error:
        tableau.Tableau(**columns, num_train_steps=10)
    one_line(error)


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
