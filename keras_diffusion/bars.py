"""Bars that show how far something is, of tqdm."""

import sys

from keras_diffusion import extras


def bar(total, *, unit, done=0, what=None):
    """A bar on standard error; away from a terminal and a notebook a line a minute.

    Args:
        total: of units.
        unit: what is counted, in the plural.
        done: how many were done before.
        what: a word before the bar.

    Returns:
        `tqdm.tqdm`; a context manager too, which closes it whatever is raised.

    Raises:
        ModuleNotFoundError: where tqdm isn't installed; it says what to do.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(extras.missing("tqdm", "train"), name="tqdm") from None

    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=f" {unit}",
        mininterval=0.5 if live else 60,
        miniters=1,  # else tqdm's monitor writes lines between
        dynamic_ncols=live,
        ascii=not live,
    )
