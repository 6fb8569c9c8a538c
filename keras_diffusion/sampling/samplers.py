"""Samplers: pure functions from a schedule, a prediction and times to a tableau.

In each, `_t` marks the time of the call and `_s` the less noisy one that the row goes to. The last row always goes to
s = 0, the clean image.
"""

import numpy as np

from keras_diffusion import spec
from keras_diffusion.errors import is_number, shown
from keras_diffusion.sampling import guidance, tableau
from keras_diffusion.sampling.times import NUM_STEPS, spaced_times


def ddpm(schedule, prediction, times, *, variance="beta_tilde"):
    """Ancestral sampling: a draw from q(x_s | x_t, x0) at the estimated x0.

    Args:
        schedule: `Schedule`.
        prediction: name of the prediction.
        times: float [S+1], falling to 0.
        variance: "beta_tilde", the posterior's own, or "beta", the larger one of the forward process, meant for all T
            steps: with few it adds far too much noise.

    Reference: Ho et al. 2020, equations 6 and 7; the general form for skipped steps is Kingma et al. 2021, equation 25.
    """
    if not isinstance(variance, str) or variance not in ("beta", "beta_tilde"):
        raise ValueError(f"variance: expected 'beta' or 'beta_tilde', got {shown(variance)}")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(times[:-1]), schedule.at(times[1:])
    ratio = alpha_t / alpha_s
    forward = sigma_t**2 - ratio**2 * sigma_s**2  # variance of q(x_t | x_s)
    posterior = forward * sigma_s**2 / sigma_t**2
    chosen = posterior if variance == "beta_tilde" else np.where(sigma_s > 0, forward, 0.0)
    return tableau.make(
        schedule,
        prediction,
        times[:-1],
        a=ratio * sigma_s**2 / sigma_t**2,
        b=alpha_s * forward / sigma_t**2,
        c=np.sqrt(chosen),
    )


def ddim(schedule, prediction, times, *, eta=0.0):
    """Non-Markovian sampling: deterministic at eta = 0, `ddpm` with "beta_tilde" at eta = 1.

    On the flow schedule eta = 0 is Euler's method for the velocity.

    Reference: Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models", equations 12 and 16.
    """
    if not is_number(eta) or not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {shown(eta)}")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(times[:-1]), schedule.at(times[1:])
    posterior = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2) * sigma_s**2 / sigma_t**2
    c = eta * np.sqrt(posterior)
    eps = np.sqrt(np.maximum(sigma_s**2 - c**2, 0.0))  # how much of the estimated noise stays
    a = eps / sigma_t
    return tableau.make(schedule, prediction, times[:-1], a=a, b=alpha_s - a * alpha_t, c=c)


def dpmpp_2m(schedule, prediction, times):
    """DPM-Solver++(2M): the last two estimates of x0, carried on to the middle of the step in half log-SNR.

    A row is of first order (`ddim`) where half log-SNR isn't finite at its end, at its beginning or at the one before:
    always the first and the last.

    Reference: Lu et al. 2022, "DPM-Solver++", algorithm 2.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(times[:-1]), schedule.at(times[1:])
    h = np.diff(schedule.lam(times))
    h_before = np.append(np.inf, h[:-1])
    finite = np.isfinite(h) & np.isfinite(h_before)
    weight = np.where(finite, h, 0.0) / (2 * np.where(finite, h_before, 1.0))
    a = sigma_s / sigma_t
    b = alpha_s - a * alpha_t
    return tableau.make(schedule, prediction, times[:-1], a=a, b=b * (1 + weight), d=-b * weight)


def heun(schedule, prediction, times):
    """Heun's method: a step of Euler's, a second call where it led, and the mean of both slopes.

    With y = x/k and rho = sigma/k, where k = alpha + sigma, the probability flow is dy/drho = (y - x0)/rho = eps - x0 on
    every schedule, a straight line where both are known. (For k = alpha rho has no bound near alpha = 0.) Two calls a
    step; one in a step that ends at sigma = 0.

    Reference: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1.
    """
    first, s = ddim(schedule, prediction, times), times[1:]
    alpha_s, sigma_s = schedule.at(s)
    k_t, k_s = first.alpha + first.sigma, alpha_s + sigma_s
    with np.errstate(divide="ignore"):
        # Half of what the slope changes by, (x0 - x0')/rho_s, over the step of rho_s - rho_t.
        b = k_s * ((first.sigma / k_t) / (sigma_s / k_s) - 1) / 2
    return _two_calls(
        schedule,
        prediction,
        t=(first.t, s),
        a=(first.a, np.ones_like(b)),
        b=(first.b, b),
        d=(first.d, -b),
    )


def euler(schedule, prediction, times):
    """Euler's method for the flow's velocity, x_s = x_t + (t - s)/T * (x0 - eps).

    Reference: Liu et al. 2022, "Flow Straight and Fast".
    """
    _check_flow(schedule, "euler", "ddim")
    return ddim(schedule, prediction, times)


def midpoint(schedule, prediction, times):
    """The midpoint method for the flow's velocity: half a step of Euler's, then a whole one with the slope found there.

    Two calls a step. The last row is 2*x0' - x0_before, which may leave the range of images: the loop clips the end.
    Where training drew whole numbers (a flow by `table_schedule`), the middle may be a half: the step is right there too,
    but the network has only seen the whole times beside it.

    Reference: Lipman et al. 2024, "Flow Matching Guide and Code", section 3.2.
    """
    _check_flow(schedule, "midpoint", "heun")
    middle = (times[:-1] + times[1:]) / 2
    _, (sigma_t, sigma_m, sigma_s) = zip(
        *(schedule.at(t) for t in (times[:-1], middle, times[1:])), strict=True
    )
    return _two_calls(
        schedule,
        prediction,
        t=(times[:-1], middle),
        a=(sigma_m / sigma_t, sigma_s / sigma_m),
        b=(1 - sigma_m / sigma_t, (sigma_t - sigma_s) / sigma_m),
        d=(np.zeros_like(middle), 1 - sigma_t / sigma_m),
    )


def _two_calls(schedule, prediction, **pairs):
    """A tableau of steps with two rows each, (first, second) a column; a second row that isn't finite is left out."""
    columns = {name: np.stack(pair, axis=-1) for name, pair in pairs.items()}
    called = np.isfinite(columns["b"])
    return tableau.make(
        schedule, prediction, **{name: column[called] for name, column in columns.items()}
    )


def _check_flow(schedule, sampler, instead):
    if not schedule.is_flow:
        raise ValueError(
            f"sampler: {sampler}: expected a flow schedule, alpha + sigma = 1, got another; use {instead}"
        )


SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "heun": heun,
    "euler": euler,
    "midpoint": midpoint,
}
SPACING = dict.fromkeys(SAMPLERS, "uniform")  # no other read better (docs/quality.md)


GUIDANCE_SCALE = 5.0  # unless told otherwise, with classes; the course's


def default_sampler(schedule):
    """The sampler unless told otherwise: Euler's method for flows, else ddpm."""
    return "euler" if schedule.is_flow else "ddpm"


def usual(schedule, num_classes):
    """How images are drawn unless told otherwise: arguments of `sample`."""
    return {
        "sampler": default_sampler(schedule),
        "num_steps": min(NUM_STEPS, schedule.num_train_steps),
        "guidance_scale": GUIDANCE_SCALE if num_classes else 1.0,
    }


def of_plan(asked):
    """Those arguments of `sample` that `plan` takes, of a model's defaults."""
    return {name: value for name, value in asked.items() if not name.startswith("guidance")}


def as_defaults(asked, schedule, prediction):
    """What a model draws by where nothing is said, checked, in JSON's types.

    Args:
        asked: dict of arguments of `sample`; None where one is left open.
        schedule, prediction: of the model.

    Raises:
        ValueError: where an argument is unknown or out of range.
    """
    if not isinstance(asked, dict):
        raise ValueError(f"sampling: expected a dict of arguments of sample, got {shown(asked)}")
    made = {name: _plain(value) for name, value in asked.items() if value is not None}
    spec.check_defaults(made)
    drawn = plan(schedule, prediction, **of_plan(made))
    guidance.weights(drawn, made.get("guidance_interval"))
    return made


def _plain(value):
    """Arrays and tuples as lists, NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def fill_in(given, defaults):
    """What is asked of `plan`: defaults in place of what isn't given, but for those that don't go with it.

    Args:
        given: dict of arguments of `plan`.
        defaults: dict of the same.
    """
    if given.get("sampler", defaults.get("sampler")) != defaults.get("sampler"):
        defaults = {k: v for k, v in defaults.items() if k not in ("variance", "eta")}
    if given.get("sampler") == "midpoint":
        defaults = {k: v for k, v in defaults.items() if k != "sharpen"}
    below = given.get("strength", 1.0) != 1.0
    if below or not isinstance(given.get("spacing", ""), str):
        defaults = {k: v for k, v in defaults.items() if k != "num_steps"}
    if (below or "num_steps" in given) and not isinstance(defaults.get("spacing", ""), str):
        defaults = {k: v for k, v in defaults.items() if k != "spacing"}
    return {**defaults, **given}


def plan(
    schedule,
    prediction,
    *,
    sampler=None,
    num_steps=None,
    spacing=None,
    strength=1.0,
    sharpen=0.0,
    **options,
):
    """The tableau of a sampler by name.

    Args:
        schedule: `Schedule`.
        prediction: "eps", "x0", "v" or "flow".
        sampler: "ddpm", "ddim", "dpmpp_2m" or "heun"; for flow schedules "euler" and "midpoint" too. None is
            `default_sampler`.
        num_steps: S, 1 <= S <= T; None means 20. "heun" and "midpoint" make two calls a step.
        spacing: of the times, as `spaced_times` takes it; None is the sampler's own, `SPACING`.
        strength: where to start, as a share of T: less than 1 to start from a noised image.
        sharpen: in [0, 1], how far the images' pixels are drawn towards black and white at the end: `tableau.sharpened`.
        options: what the sampler takes: `variance` (ddpm), `eta` (ddim).

    Raises:
        ValueError: where a name is unknown, an option isn't the sampler's, or a value is out of range.
    """
    sampler = default_sampler(schedule) if sampler is None else sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ValueError(f"sampler: expected one of {tuple(SAMPLERS)}, got {shown(sampler)}")
    method = SAMPLERS[sampler]
    allowed = method.__kwdefaults__ or {}
    for name in options:
        if name not in allowed:
            raise ValueError(
                f"sampler {sampler!r}: expected options {tuple(allowed)}, got {name!r}"
            )
    spacing = SPACING[sampler] if spacing is None else spacing
    times = spaced_times(schedule, num_steps, spacing=spacing, strength=strength)
    if not is_number(sharpen) or not 0 <= sharpen <= 1:
        raise ValueError(f"sharpen: expected a number in [0, 1], got {shown(sharpen)}")
    if sharpen and sampler == "midpoint":  # it ends beyond its estimate
        raise ValueError(f"sharpen: expected 0 with sampler 'midpoint', got {shown(sharpen)}")
    made = method(schedule, prediction, times, **options)
    return made.sharpen(sharpen) if sharpen else made
