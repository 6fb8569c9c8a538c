"""At which times a sampler calls the network: from T, or wherever it starts, to 0."""

from collections.abc import Callable

import numpy as np

from keras_diffusion.errors import is_integer, is_number, shown

FEW_STEPS = 10  # of a student
NUM_STEPS = 20  # unless told otherwise: more read no better (docs/quality.md, "Which sampler")


def spaced_times(schedule, num_steps=None, *, spacing="uniform", strength=1.0):
    """Times t_1 > ... > t_S > 0 and the end 0.

    Where training drew whole numbers, so are these, but for a list of one's own.

    Args:
        schedule: `Schedule`.
        num_steps: S, 1 <= S <= T, and no more than whole numbers up to t_1; None means 20, or as many as there are.
        spacing: "uniform" in t; "quadratic", finer towards 0; "lam", uniform in half log-SNR from t_1 to t = 1; or a
            list [S], falling from t_1.
        strength: t_1 / T, in (0, 1].

    Returns:
        float64 [S+1].

    Raises:
        ValueError: where a value is out of range, or a list doesn't begin at t_1 or fall.

    Reference: Song et al. 2020, "Denoising Diffusion Implicit Models", D.2 (quadratic); Lu et al. 2022, "DPM-Solver"
    (uniform in half log-SNR).
    """
    start = _start(schedule, strength)
    if not isinstance(spacing, str):
        return _own(spacing, start, num_steps)
    if spacing not in SPACINGS:
        raise ValueError(
            f"spacing: expected one of {tuple(SPACINGS)} or a list of times, got {spacing!r}"
        )
    most = schedule.num_train_steps if schedule.continuous else int(start)
    num_steps = min(NUM_STEPS, most) if num_steps is None else num_steps
    if not is_integer(num_steps) or not 1 <= num_steps <= most:
        raise ValueError(f"num_steps: expected an integer in 1..{most}, got {shown(num_steps)}")
    times = SPACINGS[spacing](schedule, start, num_steps)
    return times if schedule.continuous else _whole(times)


def few_times(schedule, num_steps=None, *, spacing="uniform"):
    """The times of a student's calls, without the end: float64 [S], as `spaced_times`, but 10 unless told otherwise."""
    if isinstance(spacing, str) and num_steps is None:
        num_steps = min(FEW_STEPS, schedule.num_train_steps)
    return spaced_times(schedule, num_steps, spacing=spacing)[:-1]


def _start(schedule, strength):
    if not is_number(strength) or not 0 < strength <= 1:
        raise ValueError(f"strength: expected a number in (0, 1], got {shown(strength)}")
    start = float(strength * schedule.num_train_steps)
    return start if schedule.continuous else max(1.0, float(np.round(start)))


def _own(times, start, num_steps):
    expected = f"spacing: expected times that fall from {start:g} to above 0"
    try:
        times = np.append(np.asarray(times, dtype=np.float64).ravel(), 0.0)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{expected}, got {shown(times)}") from None
    if times.size == 1:
        raise ValueError(f"{expected}, got none")
    fits = (times > 0) & np.append(np.isclose(times[0], start), np.diff(times) < 0)
    if not fits[:-1].all():
        place = int(np.argmin(fits))
        raise ValueError(f"{expected}, got {times[place]} in place {place + 1}")
    times[0] = start
    if num_steps is not None and not (is_integer(num_steps) and num_steps == times.size - 1):
        raise ValueError(
            f"num_steps: expected {times.size - 1} as in the list, got {shown(num_steps)}"
        )
    return times


def _uniform(schedule, start, num_steps):
    return np.linspace(start, 0.0, num_steps + 1)


def _quadratic(schedule, start, num_steps):
    return start * np.linspace(1.0, 0.0, num_steps + 1) ** 2


def _lam(schedule, start, num_steps):
    if num_steps == 1:
        return np.array([start, 0.0])
    last = min(1.0, start / num_steps)
    first = schedule.lam(start)
    if not np.isfinite(first):  # nothing but noise: no number is evenly far from it
        first = schedule.lam(start - last)
    times = schedule.time_at(np.linspace(first, schedule.lam(last), num_steps))
    return np.concatenate([[start], times[1:], [0.0]])


def _whole(times):
    """Rounded, and where two would meet moved apart, by as little as keeps both ends."""
    place = np.arange(times.size)
    above = np.maximum.accumulate((np.round(times) + place)[::-1])[::-1] - place
    above[0] = times[0]
    return np.minimum.accumulate(above + place) - place


SPACINGS: dict[str, Callable] = {"uniform": _uniform, "quadratic": _quadratic, "lam": _lam}
