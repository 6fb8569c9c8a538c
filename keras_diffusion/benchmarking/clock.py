"""Taking turns, and what is said of the times: medians, quartiles, ratios within rounds."""

import time

import numpy as np


def timed(action, count):
    """Seconds of each of `count` calls of `action`, which must return only when its work is done."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return seconds


def in_turn(actions, rounds):
    """Calls every action once in each round, each round beginning with another one.

    Args:
        actions: dict of a name to a function that returns a list of seconds.
        rounds: how many.

    Returns:
        Dict of a name to a list over rounds of such lists.
    """
    names = list(actions)
    times = {name: [] for name in names}
    for k in range(rounds):
        first = k % max(len(names), 1)
        for name in names[first:] + names[:first]:
            times[name].append(actions[name]())
    return times


def summary(rounds):
    """Seconds of a step over all rounds.

    Args:
        rounds: list over rounds of lists of seconds, none empty.

    Returns:
        Dict of the median, the best (least), the quartiles and the count.
    """
    seconds = np.concatenate([np.asarray(some, np.float64) for some in rounds])
    return {
        "median": float(np.median(seconds)),
        "best": float(seconds.min()),
        "quartiles": _quartiles(seconds),
        "count": int(seconds.size),
    }


def times_as_fast(ours, theirs):
    """How many times as fast ours is: theirs/ours of the medians within each round, so that what slows a whole round cancels.

    Args:
        ours, theirs: lists over the same rounds of lists of seconds.

    Returns:
        Dict of the median and the quartiles over rounds.
    """
    ratios = [float(np.median(b) / np.median(a)) for a, b in zip(ours, theirs, strict=True)]
    return {"median": float(np.median(ratios)), "quartiles": _quartiles(ratios)}


def _quartiles(values):
    return [float(value) for value in np.percentile(values, (25, 75))]
