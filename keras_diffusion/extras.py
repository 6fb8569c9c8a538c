"""What to install where a package is missing."""

import os
import pathlib


def missing(package, extra):
    """A line that says so, and what to do: how to install this package with its extra."""
    return f"expected {package} to be installed, found none: {advice(extra)}"


def advice(extra):
    """The command, which differs with where this package is: in a clone, which it may be run from without being installed, or
    anywhere else."""
    root = pathlib.Path(__file__).resolve().parents[1]
    if _is_clone(root):
        return f'pip install -e "{_shown(root)}[{extra}]"'
    return f'pip install ".[{extra}]" in a clone of keras-diffusion'


def _is_clone(root):
    try:
        return 'name = "keras-diffusion"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _shown(root):
    """A folder as short as it can be written."""
    try:
        return min(os.path.relpath(root), str(root), key=len)
    except (OSError, ValueError):  # another drive, or a working folder that is gone
        return str(root)
