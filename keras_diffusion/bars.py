"""Bars that show how far something is, of tqdm."""

import sys


def bar(total, *, unit, done=0, what=None):
    """A bar on standard error; away from a terminal a line a minute. Needs tqdm.

    Args:
        total: of units.
        unit: what is counted, in the plural.
        done: how many were done before.
        what: a word before the bar.

    Returns:
        `tqdm.tqdm`; a context manager too, which closes it whatever is raised.
    """
    from tqdm import tqdm

    live = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=f" {unit}",
        mininterval=0.5 if live else 60,
        dynamic_ncols=live,
        ascii=not live,
    )
