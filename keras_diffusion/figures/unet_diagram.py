"""A network as a U of boxes, and the vectors that condition it in columns at its right."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from keras_diffusion.figures import style
from keras_diffusion.figures.style import BLUE, GREY, INK, ORANGE

_HIGH, _ROW, _INSET = 0.32, 0.45, 0.24


class Stage(NamedTuple):
    """A box of an architecture: shape (H, W, C), or (C,) for a vector; inputs: earlier names."""

    name: str
    operation: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...] = ()


def architecture(path, stages, *, title, footnote=None):
    """Write a network as a U: encoder down the left, decoder up the right, then conditioning.

    The last stage of the lowest resolution is the bottom; an encoder stage stands level with the
    decoder stage that it skips to.

    Args:
        path: where the picture goes; ends in .png.
        stages: `Stage`s, or tuples of the same four, each after its inputs.
        title, footnote: text above and below.

    Raises:
        ValueError: a name used twice, an input that is no earlier stage, a shape that is neither
            (H, W, C) nor (C,), another suffix.
    """
    stages = [Stage(*stage) for stage in stages]
    _check_stages(stages)
    boxes, vectors = _place(stages), {s.name for s in stages if len(s.shape) == 1}
    with style.defaults():
        figure, axes = _paper(boxes, title, footnote)
        for stage in stages:
            for name in stage.inputs:
                _draw_arrow(axes, boxes[name], boxes[stage.name], name in vectors)
            _draw_box(axes, boxes[stage.name], stage)
        style.save_figure(path, figure)


@dataclass(frozen=True)
class _Box:
    """In inches: left edge, middle height, width."""

    x: float
    y: float
    width: float


def _check_stages(stages):
    known = set()
    for stage in stages:
        name = f"stage {stage.name!r}"
        if stage.name in known:
            raise ValueError(f"{name}: expected a name of its own, received it twice")
        if len(stage.shape) not in (1, 3):
            raise ValueError(f"{name}: expected shape (H, W, C) or (C,), received {stage.shape}")
        unknown = [source for source in stage.inputs if source not in known]
        if unknown:
            raise ValueError(f"{name}: expected inputs from earlier stages, received {unknown}")
        known.add(stage.name)
    if not any(len(stage.shape) == 3 for stage in stages):
        raise ValueError("stages: expected at least one of shape (H, W, C), received none")


def _place(stages):
    """A box for each name: the main path as a U, vectors in columns at its right."""
    main = [stage for stage in stages if len(stage.shape) == 3]
    sizes = sorted({stage.shape[0] for stage in main}, reverse=True)
    lowest = max(k for k, stage in enumerate(main) if stage.shape[0] == sizes[-1])
    rows, width = _rows(main, lowest), max(_box_width(stage) for stage in main)
    insets = [_INSET * sizes.index(stage.shape[0]) for stage in main]
    total = 2 * width + 0.6 + 2 * max(insets[:lowest] + insets[lowest + 1 :], default=0)
    insets[lowest] = (total - width) / 2
    boxes = {}
    for k, (stage, inset) in enumerate(zip(main, insets, strict=True)):
        x = inset if k <= lowest else total - width - inset
        boxes[stage.name] = _Box(x, _ROW * rows[stage.name], width)
    return _place_vectors(stages, boxes, total)


def _rows(main, lowest):
    """The decoder climbs one row a stage from the bottom, 0; the encoder stands level with it."""
    encoder, decoder = main[:lowest], main[lowest + 1 :]
    rows = {main[lowest].name: 0} | {stage.name: k for k, stage in enumerate(decoder, 1)}
    row = 0
    for stage in reversed(encoder):
        level = [rows[user.name] for user in decoder if stage.name in user.inputs]
        row = max(row + 1, min(level, default=0))
        rows[stage.name] = row
    if encoder:  # the input level with the output
        rows[encoder[0].name] = max(row, len(decoder))
    return rows


def _place_vectors(stages, boxes, left):
    """Columns by distance from the main path, each vector as level as can be with its users."""
    users = {v.name: [s.name for s in stages if v.name in s.inputs] for v in stages}
    vectors = [stage for stage in stages if len(stage.shape) == 1]
    depth = dict.fromkeys(boxes, 0)
    for stage in reversed(vectors):
        depth[stage.name] = 1 + max((depth[user] for user in users[stage.name]), default=0)
    for column in range(1, max(depth.values()) + 1):
        here = [stage for stage in vectors if depth[stage.name] == column]
        left, width = left + 0.45, max(_box_width(stage) for stage in here)
        levels = [np.mean([boxes[u].y for u in users[s.name]] or [0]) for s in here]
        for stage, y in zip(here, _apart(levels, _ROW), strict=True):
            boxes[stage.name] = _Box(left, y, width)
        left += width
    return boxes


def _apart(levels, distance):
    """The heights nearest to `levels` that are `distance` apart; equal ones go downwards."""
    order = sorted(range(len(levels)), key=lambda k: (levels[k], -k))
    blocks = []  # isotonic regression: neighbours that are too close share the shift
    for rank, k in enumerate(order):
        blocks.append((levels[k] - rank * distance, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((m * a + n * b) / (m + n), m + n)]
    shifts = [shift for shift, count in blocks for _ in range(count)]
    heights = {k: shifts[rank] + rank * distance for rank, k in enumerate(order)}
    return [heights[k] for k in range(len(levels))]


def _paper(boxes, title, footnote):
    """A figure that holds the boxes and the words; one unit of its axes is one inch."""
    right, top = max(b.x + b.width for b in boxes.values()), max(b.y for b in boxes.values())
    low = min(b.y for b in boxes.values()) - 0.3
    notes = style.wrap(footnote, lambda text: _inches(text, 9), right)
    margin, foot = 0.12, 0.2 * len(notes)
    size = (right + 2 * margin, top - low + foot + margin + 0.7)
    figure = Figure(figsize=size, dpi=style.DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-margin, right + margin), ylim=(low - foot - margin, top + 0.7))
    axes.set_axis_off()
    axes.text(0, top + 0.48, title, va="center", fontsize=12, fontweight="bold", color=INK)
    axes.text(0, low - 0.02, "\n".join(notes), va="top", fontsize=9, color=GREY)
    return figure, axes


def _inches(text, points):
    return style.font(100).getlength(text) * points / 7200


def _shape_text(stage):
    return "×".join(str(n) for n in stage.shape)


def _box_width(stage):
    return 0.36 + _inches(stage.operation, 9.5) + _inches(_shape_text(stage), 9)


def _draw_box(axes, box, stage):
    vector, merges = len(stage.shape) == 1, len(stage.inputs) > 1
    fill = "#fdeadb" if vector else "#fdf3d0" if merges else "#e3edf9"
    inside, edge = fill if stage.inputs else "white", ORANGE if vector else BLUE
    corner, outline = (box.x, box.y - _HIGH / 2), "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, _HIGH, boxstyle=outline, lw=1, fc=inside, ec=edge)
    )
    text = {"va": "center_baseline", "zorder": 5}
    axes.text(box.x + 0.09, box.y, stage.operation, fontsize=9.5, color=INK, **text)
    x = box.x + box.width - 0.09
    axes.text(x, box.y, _shape_text(stage), fontsize=9, color=GREY, ha="right", **text)


def _draw_arrow(axes, a, b, vector):
    left, right = max(a.x, b.x), min(a.x + a.width, b.x + b.width)
    color = ORANGE if vector else INK
    if left < right:  # one above the other
        up = _HIGH / 2 if b.y > a.y else -_HIGH / 2
        start, end = ((left + right) / 2, a.y + up), ((left + right) / 2, b.y - up)
    else:
        start, end = (a.x + a.width, a.y), (b.x, b.y)
        if b.x < a.x:
            start, end = (a.x, a.y), (b.x + b.width, b.y)
        color = ORANGE if vector else BLUE
    arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0.5}
    axes.annotate("", end, start, arrowprops=arrow, zorder=0)
