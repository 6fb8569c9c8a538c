"""What the figures share: colours, letters, and how a picture is saved."""

import contextlib
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import ImageFont

from keras_diffusion.files import replacing

INK, GREY, BLUE, ORANGE = "#222222", "#6b7280", "#1f5fa8", "#c2570c"
DPI = 200  # 8 inches are 1600 pixels: twice the width of a README, sharp on dense screens


@cache
def font(size, style=""):
    # matplotlib's own copy of DejaVu: the same letters everywhere, Greek ones too.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{style}.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def wrap(text, measure, width):
    """Lines of whole words, none wider than `width` but for a lone word; no text has no lines."""
    lines: list[str] = []
    for word in (text or "").split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@contextlib.contextmanager
def defaults():
    """matplotlib with its own settings: a matplotlibrc of the user's would make other pictures."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextlib.contextmanager
def picture(path, suffix):
    """A file to write a picture to, which takes the place of `path` when the block ends well."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"path: expected a name ending in {suffix}, received {path.name!r}")
    with replacing(path) as beside, open(beside, "wb") as file:
        yield file


def save_figure(path, figure):
    """Save a matplotlib figure as a PNG."""
    # Without "Software" the bytes don't depend on the version's name.
    with picture(path, ".png") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
