"""95% intervals."""

import numpy as np
from scipy import stats

LEVEL = 0.95


def proportion(hits):
    """Wilson's interval of a share: it doesn't vanish at 0 and 1 as a bootstrap's does.

    Args:
        hits: bool [N].

    Reference: Wilson 1927.
    """
    hits = np.asarray(hits)
    found = stats.binomtest(int(hits.sum()), hits.size).proportion_ci(LEVEL, method="wilson")
    return [float(found.low), float(found.high)]


def bootstrap(count, statistic, *, resamples=200, seed=0):
    """A bootstrap interval, as wide as the statistic of resampled rows spreads, about the estimate itself.

    Resampling repeats rows, which shifts a Fréchet distance upwards; taken about their own mean, the resampled values show its spread.

    Args:
        count: N, the number of rows.
        statistic: function of indices [N] to a number.
        resamples: how often.
        seed: of the draws.

    Returns:
        [low, high].

    Reference: Efron 1979.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)])
    tails = np.quantile(values - values.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    estimate = statistic(np.arange(count))
    return [float(estimate + tail) for tail in tails]
