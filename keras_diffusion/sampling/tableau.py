"""A sampler's whole plan as a frozen table, one row a network call, and the one step that follows it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from keras_diffusion import predictions


class Row(NamedTuple):
    """The coefficients of one call; scalars of any framework."""

    p: float
    q: float
    a: float
    b: float
    d: float
    c: float
    e: float


COLUMNS = ("t", "alpha", "sigma", *Row._fields)


def step(x, x0_before, out, noise, row, clip, unit):
    """One row of a tableau. Operators only, so it serves NumPy and TensorFlow alike.

    Args:
        x: the state x_t [N, H, W, C].
        x0_before: the estimate of x0 in the row before; anything of this shape in the first.
        out: the network's output for x.
        noise: standard normal, or anything of this shape where `row.c` is 0.
        row: `Row`.
        clip: function that is applied to the estimate of x0.
        unit: function that clips to [0, 1], where alone pixels can be sharpened.

    Returns:
        (the next state, the estimate of x0).
    """
    x0 = clip(row.p * x + row.q * out)
    pixels = unit(x0)
    x0 = clip(x0 + (sharpened(pixels, row.e) - pixels))
    return row.a * x + row.b * x0 + row.d * x0_before + row.c * noise, x0


def sharpened(x0, e):
    """Pixels drawn towards black and white: x0 + e*x0*(1 - x0)*(2*x0 - 1), which leaves 0, 1/2 and 1 where they are.

    An estimate of x0 is the mean of what the image could be, so its edges are softer than any of these. With e = 1 this is
    3*x0² - 2*x0³; in [0, 1] it rises everywhere for e from 0, which is off, to 1.
    """
    return x0 + e * x0 * (1.0 - x0) * (2.0 * x0 - 1.0)


@dataclass(frozen=True, eq=False)
class Tableau:
    """S rows of  x0' = sharpened(clip(p*x + q*out), e);  x' = a*x + b*x0' + d*x0_before + c*noise.

    Args:
        t: float64 [S], the time of each call, in (0, T]; the network sees t/T.
        alpha, sigma: float64 [S], the schedule at t.
        p, q: float64 [S], prediction x schedule.
        a, b, d, c: float64 [S], sampler x schedule.
        num_train_steps: T.
        e: float64 [S], how far estimates are `sharpened`; None: nowhere.

    Raises:
        ValueError: where the columns' lengths differ, a coefficient isn't finite (the prediction and the schedule
            don't determine x0 there), or a time lies outside of (0, T].
    """

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    p: np.ndarray
    q: np.ndarray
    a: np.ndarray
    b: np.ndarray
    d: np.ndarray
    c: np.ndarray
    num_train_steps: int
    e: np.ndarray | None = None

    def __post_init__(self):
        if self.e is None:
            object.__setattr__(self, "e", np.zeros(np.shape(self.t)))
        for name in COLUMNS:
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != np.shape(self.t) or value.ndim != 1 or value.size == 0:
                raise ValueError(
                    f"tableau column {name}: expected shape [S] like t {np.shape(self.t)}, got {value.shape}"
                )
            if not np.isfinite(value).all():
                raise ValueError(
                    f"tableau column {name}: not finite in row {int(np.argmin(np.isfinite(value)))}; this "
                    "prediction can't be sampled from this schedule at that time"
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        fits = (self.t > 0) & (self.t <= self.num_train_steps)
        if not fits.all():
            raise ValueError(
                f"tableau: expected times in (0, {self.num_train_steps}], got {self.t[~fits][0]}"
            )

    def __len__(self):
        return self.t.size

    def __getitem__(self, rows):
        """Some of the rows, by a slice, as a tableau."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return Tableau(**columns, num_train_steps=self.num_train_steps)

    @property
    def rows(self):
        """float64 [S, 7]: p, q, a, b, d, c, e."""
        return np.stack([getattr(self, name) for name in Row._fields], axis=-1)

    def sharpen(self, e):
        """The same, with the last estimate `sharpened`.

        Raises:
            ValueError: where the images aren't the last estimate.
        """
        if (self.a[-1], self.b[-1], self.d[-1], self.c[-1]) != (0, 1, 0, 0):
            raise ValueError("sharpen: expected a sampler that ends in its estimate, got another")
        last = np.arange(len(self)) == len(self) - 1
        return replace(self, e=np.where(last, e, 0.0))

    @property
    def is_stochastic(self):
        """Whether any row adds noise."""
        return bool((self.c != 0).any())


def make(schedule, prediction, t, *, a, b, c=None, d=None):
    """A tableau from a sampler's columns; p and q follow from the prediction."""
    alpha, sigma = schedule.at(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.ones_like(alpha)
        p, q = predictions.to_x0(prediction, alpha * one, sigma * one)
    zero = np.zeros_like(alpha)
    return Tableau(
        t=t,
        alpha=alpha,
        sigma=sigma,
        p=p * one,
        q=q * one,
        a=a,
        b=b,
        d=zero if d is None else d,
        c=zero if c is None else c,
        num_train_steps=schedule.num_train_steps,
    )
