"""Samplers: pure functions from a schedule, a prediction and times to a tableau.

In each, `_t` marks the time of the call and `_s` the less noisy one that the row goes to. The last row always goes to
s = 0, the clean image.
"""

import numpy as np

from keras_diffusion.sampling import tableau


def uniform_times(schedule, num_steps=None):
    """Times T = t_1 > ... > t_S > 0 and the end 0, evenly spaced; whole numbers unless the schedule is continuous.

    Args:
        schedule: `Schedule`.
        num_steps: S, 1 <= S <= T; None means T.

    Returns:
        float64 [S+1], from T to 0.
    """
    most = schedule.num_train_steps
    num_steps = most if num_steps is None else num_steps
    if not isinstance(num_steps, int | np.integer) or not 1 <= num_steps <= most:
        raise ValueError(f"num_steps: expected an integer in 1..{most}, got {num_steps}")
    times = np.linspace(most, 0, num_steps + 1)
    return times if schedule.continuous else np.round(times)


def ddpm(schedule, prediction, times, *, variance="beta_tilde"):
    """Ancestral sampling: a draw from q(x_s | x_t, x0) at the estimated x0.

    Args:
        schedule: `Schedule`.
        prediction: name of the prediction.
        times: float [S+1], from T to 0.
        variance: "beta_tilde", the posterior's own, or "beta", the larger one of the forward process, meant for all T
            steps: with few it adds far too much noise.

    Reference: Ho et al. 2020, equations 6 and 7; the general form for skipped steps is Kingma et al. 2021, equation 25.
    """
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f"variance: expected 'beta' or 'beta_tilde', got {variance!r}")
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
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {eta}")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(times[:-1]), schedule.at(times[1:])
    posterior = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2) * sigma_s**2 / sigma_t**2
    c = eta * np.sqrt(posterior)
    eps = np.sqrt(np.maximum(sigma_s**2 - c**2, 0.0))  # how much of the estimated noise stays
    a = eps / sigma_t
    return tableau.make(schedule, prediction, times[:-1], a=a, b=alpha_s - a * alpha_t, c=c)


def euler(schedule, prediction, times):
    """Euler's method for the flow's velocity, x_s = x_t + (t - s)/T * (x0 - eps).

    Reference: Liu et al. 2022, "Flow Straight and Fast".
    """
    if schedule.is_variance_preserving:
        raise ValueError("euler: expected a flow schedule, got a variance-preserving one; use ddim")
    return ddim(schedule, prediction, times)


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "euler": euler}


def plan(schedule, prediction, *, sampler="ddpm", num_steps=None, **options):
    """The tableau of a sampler by name.

    Args:
        schedule: `Schedule`.
        prediction: "eps", "x0", "v" or "flow".
        sampler: "ddpm", "ddim" or "euler".
        num_steps: S, 1 <= S <= T; None means T.
        options: what the sampler takes: `variance` (ddpm), `eta` (ddim).

    Raises:
        ValueError: where a name is unknown, an option isn't the sampler's, or a value is out of range.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: expected one of {tuple(SAMPLERS)}, got {sampler!r}")
    method = SAMPLERS[sampler]
    allowed = method.__kwdefaults__ or {}
    for name in options:
        if name not in allowed:
            raise ValueError(
                f"sampler {sampler!r}: expected options {tuple(allowed)}, got {name!r}"
            )
    return method(schedule, prediction, uniform_times(schedule, num_steps), **options)
