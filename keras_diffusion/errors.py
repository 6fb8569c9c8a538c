"""What a user can cause: one line that says what was expected, what came and what to do."""

import numbers


class UserError(ValueError):
    """Programs print the message alone and exit with status 2."""


def is_number(value):
    """Whether a value is a real number, NumPy's too; True and False aren't."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value):
    """Whether a value is an integer, NumPy's too; True and False aren't."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def line(text):
    """Any text on one line that a terminal shows and doesn't obey: what isn't printable as Python writes it."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def shown(value):
    """Any value on one short line, for a message: an array's repr may be many."""
    text = str(value) if is_number(value) else repr(value)
    text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return text if len(text) <= 80 else f"{text[:80]} ..."
