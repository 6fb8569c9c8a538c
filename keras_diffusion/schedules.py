"""Noise schedules: alpha(t) and sigma(t) with xt = alpha*x0 + sigma*eps, t = 0 clean.

A schedule is a table on the integers 0..T, interpolated between them. The same float64 table drives training in
TensorFlow and sampling everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from keras_diffusion.errors import is_number, shown


@dataclass(frozen=True, eq=False)
class Schedule:
    """alpha and sigma on t = 0..T.

    Args:
        alpha: float64 [T+1], the share of the image; alpha[0] = 1 but for a denoiser's.
        sigma: float64 [T+1], the share of the noise, strictly increasing from sigma[0] = 0.
        continuous: whether training draws t as a real number in (0, T] instead of an integer in {1..T}.
        config: the maker's name and arguments, as JSON; empty for a table of one's own.

    Raises:
        ValueError: where the tables are not such.
    """

    alpha: np.ndarray
    sigma: np.ndarray
    continuous: bool = False
    config: dict = field(default_factory=dict)

    def __post_init__(self):
        alpha, sigma = (np.array(table, dtype=np.float64) for table in (self.alpha, self.sigma))
        if alpha.ndim != 1 or alpha.shape != sigma.shape or alpha.size < 2:
            raise ValueError(
                f"alpha and sigma: expected two tables of one length T+1 >= 2, got {alpha.shape} and {sigma.shape}"
            )
        if not (np.isfinite(alpha).all() and np.isfinite(sigma).all() and (alpha >= 0).all()):
            raise ValueError("alpha and sigma: expected finite values and alpha >= 0")
        if sigma[0] != 0 or (np.diff(sigma) <= 0).any():
            raise ValueError("sigma: expected to start at 0 and to increase with t")
        if (alpha[1:] * sigma[:-1] >= alpha[:-1] * sigma[1:]).any():
            raise ValueError("alpha/sigma: expected to fall with t")
        if self.continuous and alpha.size > 2 and np.allclose(alpha**2 + sigma**2, 1.0):
            raise ValueError(
                "continuous: expected tables that are linear between integers, got a variance-preserving pair"
            )
        for name, table in (("alpha", alpha), ("sigma", sigma)):
            table.setflags(write=False)
            object.__setattr__(self, name, table)

    @property
    def num_train_steps(self):
        """T."""
        return self.alpha.size - 1

    @property
    def is_flow(self):
        """Whether alpha + sigma = 1 for every t: a straight line from the image to the noise."""
        straight = bool(np.allclose(self.alpha + self.sigma, 1.0, rtol=0, atol=1e-12))
        return straight and not self.is_variance_preserving

    @property
    def is_variance_preserving(self):
        """Whether alpha² + sigma² = 1 for every t."""
        return not self.continuous and bool(
            np.allclose(self.alpha**2 + self.sigma**2, 1.0, atol=1e-12)
        )

    def at(self, t):
        """alpha and sigma at real times.

        Between integers, half log-SNR is interpolated where alpha² + sigma² = 1 and both ends are finite; elsewhere
        (the first step from t = 0, the last one to alpha = 0, other kinds of schedule) both tables are.

        Args:
            t: float array in [0, T].

        Returns:
            (alpha, sigma), float64, shaped like `t`.
        """
        t = np.asarray(t, dtype=np.float64)
        fits = (t >= 0) & (t <= self.num_train_steps)
        if not fits.all():
            raise ValueError(f"t: expected times in [0, {self.num_train_steps}], got {t[~fits][0]}")
        lower = np.minimum(t.astype(np.int64), self.num_train_steps - 1)
        part = t - lower
        alpha = _mix(self.alpha[lower], self.alpha[lower + 1], part)
        sigma = _mix(self.sigma[lower], self.sigma[lower + 1], part)
        if self.is_variance_preserving:
            low, high = (self._table_lam()[lower + k] for k in (0, 1))
            inside = np.isfinite(low) & np.isfinite(high)
            lam = _mix(np.where(inside, low, 0.0), np.where(inside, high, 0.0), part)
            sigma = np.where(inside, _sigmoid_sqrt(-2 * lam), sigma)
            alpha = np.where(inside, _sigmoid_sqrt(2 * lam), np.sqrt(1 - sigma**2))
        on_grid = part == np.round(part)
        nearest = np.where(part > 0.5, lower + 1, lower)
        return (
            np.where(on_grid, self.alpha[nearest], alpha),
            np.where(on_grid, self.sigma[nearest], sigma),
        )

    def lam(self, t):
        """Half log-SNR, log(alpha/sigma), at real times: +inf at t = 0, -inf where alpha = 0."""
        alpha, sigma = self.at(t)
        with np.errstate(divide="ignore"):
            return np.log(alpha) - np.log(sigma)

    def time_at(self, lam):
        """The time at which half log-SNR is `lam`; the inverse of `lam`.

        Args:
            lam: finite float array, at least `lam(T)`.

        Returns:
            float64 in (0, T], shaped like `lam`.

        Raises:
            ValueError: where `lam` isn't finite or less than the schedule's least.
        """
        lam, table = np.asarray(lam, dtype=np.float64), self._table_lam()
        fits = np.isfinite(lam) & (lam >= table[-1])
        if not fits.all():
            raise ValueError(
                f"lam: expected finite values of at least {table[-1]:g}, got {lam[~fits][0]}"
            )
        upper = np.clip(np.searchsorted(-table, -lam), 1, self.num_train_steps)
        low, high = table[upper - 1], table[upper]
        (alpha, sigma), ratio = (self.alpha, self.sigma), np.exp(-lam)
        (alpha_l, alpha_u), (sigma_l, sigma_u) = ((c[upper - 1], c[upper]) for c in (alpha, sigma))
        # Between two integers both tables are straight lines ...
        part = (ratio * alpha_l - sigma_l) / (sigma_u - sigma_l - ratio * (alpha_u - alpha_l))
        if self.is_variance_preserving:  # ... or lam is one, or sigma where lam isn't finite.
            inside = np.isfinite(low) & np.isfinite(high)
            with np.errstate(invalid="ignore"):
                line = (lam - low) / (high - low)
            ends = (_sigmoid_sqrt(-2 * lam) - sigma_l) / (sigma_u - sigma_l)
            part = np.where(inside, line, ends)
        return upper - 1 + np.clip(part, 0.0, 1.0)

    def _table_lam(self):
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    def to_config(self):
        """The schedule as JSON; `from_config` is the way back."""
        if self.config:
            return dict(self.config)
        return {
            "name": "table",
            "alpha": self.alpha.tolist(),
            "sigma": self.sigma.tolist(),
            "continuous": self.continuous,
        }


def _mix(low, high, part):
    return low + (high - low) * part


def _sigmoid_sqrt(x):
    return np.sqrt(1.0 / (1.0 + np.exp(-x)))


def linear_schedule(num_train_steps=300, *, beta_start=1e-4, beta_end=0.02):
    """DDPM's: beta linear in t, alpha_bar its running product.

    Reference: Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models".
    """
    _check_steps(num_train_steps)
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"expected 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}"
        )
    beta = np.linspace(beta_start, beta_end, num_train_steps)
    return _from_alpha_bar(
        np.cumprod(1.0 - beta),
        name="linear",
        num_train_steps=num_train_steps,
        beta_start=beta_start,
        beta_end=beta_end,
    )


def cosine_schedule(num_train_steps=300, *, shift=1.0, offset=0.008, beta_max=0.999):
    """alpha_bar falls like cos², each beta at most `beta_max`; then alpha/sigma is multiplied by `shift` at every t.

    With a shift above 1 the same t has less noise. The noise that a schedule is made for is relative to the images: for
    pixels in [-1, 1] it is half of what it is for the same pixels in [0, 1].

    Reference: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17; Hoogeboom et al.
    2023, "Simple diffusion", section 3.1 (the shift).
    """
    _check_steps(num_train_steps)
    if not (offset >= 0 and 0 < beta_max < 1):
        raise ValueError(f"expected offset >= 0 and 0 < beta_max < 1, got {offset} and {beta_max}")
    if not (is_number(shift) and 0 < shift < math.inf):
        raise ValueError(f"shift: expected a positive number, got {shown(shift)}")
    u = np.arange(num_train_steps + 1) / num_train_steps
    f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    beta = np.clip(1.0 - f[1:] / f[:-1], 1e-12, beta_max)
    alpha_bar = np.cumprod(1.0 - beta)
    shifted = {} if shift == 1 else {"shift": float(shift)}
    return _from_alpha_bar(
        alpha_bar * shift**2 / (1.0 - alpha_bar + alpha_bar * shift**2) if shifted else alpha_bar,
        name="cosine",
        num_train_steps=num_train_steps,
        offset=offset,
        beta_max=beta_max,
        **shifted,
    )


def flow_schedule(num_train_steps=300):
    """Rectified flow: sigma = t/T, alpha = 1 - t/T; training draws real t. (The course's own time is 1 - t/T.)

    Reference: Liu, Gong & Liu 2022, "Flow Straight and Fast"; Lipman et al. 2022, "Flow Matching".
    """
    _check_steps(num_train_steps)
    sigma = np.arange(num_train_steps + 1) / num_train_steps
    config = {"name": "flow", "num_train_steps": num_train_steps}
    return Schedule(1.0 - sigma, sigma, continuous=True, config=config)


def denoiser_schedule(sigma=0.5, *, alpha=1.0):
    """The course's one-step denoiser: T = 1, z = alpha*x + sigma*eps (alpha = 0: pure noise)."""
    if not (sigma > 0 and alpha >= 0):
        raise ValueError(f"expected sigma > 0 and alpha >= 0, got {sigma} and {alpha}")
    config = {"name": "denoiser", "sigma": sigma, "alpha": alpha}
    return Schedule(np.array([1.0, alpha]), np.array([0.0, sigma]), config=config)


def table_schedule(alpha, sigma, *, continuous=False):
    """A schedule from tables of one's own, alpha and sigma [T+1]."""
    return Schedule(alpha, sigma, continuous=continuous)


def from_config(config):
    """The schedule that `Schedule.to_config` described.

    Raises:
        ValueError: where `config` names no schedule or has arguments that its maker doesn't take.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in _MAKERS:
        raise ValueError(f"schedule: expected one of {sorted(_MAKERS)}, got {name!r}")
    try:
        return _MAKERS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"schedule {name!r}: {error}") from None


def _from_alpha_bar(alpha_bar, **config):
    alpha_bar = np.concatenate([[1.0], alpha_bar])
    return Schedule(np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar), config=config)


def _check_steps(num_train_steps):
    if not isinstance(num_train_steps, int | np.integer) or num_train_steps < 1:
        raise ValueError(f"num_train_steps: expected a positive integer, got {num_train_steps!r}")


_MAKERS: dict[str, Callable[..., Schedule]] = {
    "linear": linear_schedule,
    "cosine": cosine_schedule,
    "flow": flow_schedule,
    "denoiser": denoiser_schedule,
    "table": table_schedule,
}
