"""Numbers as people say them."""


def count(number, thing):
    """A number of things."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def duration(seconds):
    """Seconds as s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
