"""Every picture, from plain arrays: grids of images, loss curves, animations, the U of a network.

Nothing here knows of a model. Images are placed pixel by pixel at an integer scale (never
resampled), the same input gives the same bytes, and a file is replaced whole or not at all.
"""

import contextlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont

from keras_diffusion.files import replacing

_INK, _GREY, _BLUE, _ORANGE = "#222222", "#6b7280", "#1f5fa8", "#c2570c"
_DPI = 200  # 8 inches are 1600 pixels: twice the width of a README, sharp on dense screens


@dataclass(frozen=True)
class Stage:
    """A box of an architecture: shape (H, W, C), or (C,) for a vector; inputs: earlier names."""

    name: str
    operation: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...] = ()


def image_grid(path, images, *, row_labels=None, column_labels=None, title=None):
    """Write a grid of images as a PNG; each of their pixels is a square of whole pixels.

    Args:
        path: where the picture goes; ends in .png.
        images: float [R, C, H, W, ch], ch 1 (grey) or 3 (RGB); clipped to [0, 1], NaN is black.
        row_labels, column_labels: R and C labels. An empty label continues the one before it:
            the label is centred on such a group, and groups stand apart.
        title: text above, wrapped to the width.

    Raises:
        ValueError: images of another rank or type, labels of another number, another suffix.
    """
    pixels = _to_bytes("images", images, "RCHW")
    page = _page(pixels.shape[:4], row_labels, column_labels, title, density=2)
    with _picture(path, ".png") as file:
        page.hold(pixels).save(file, "PNG", optimize=True)


def animation(path, frames, *, duration=0.08, hold_last=1.5):
    """Write a grid of images that changes, as a GIF that loops.

    Equal neighbouring frames become one that lasts as long as both.

    Args:
        path: where the picture goes; ends in .gif.
        frames: float [F, R, C, H, W, ch], ch 1 or 3; clipped to [0, 1], NaN is black.
        duration: seconds a frame, rounded to hundredths.
        hold_last: seconds that the last frame stays.

    Raises:
        ValueError: frames of another rank or type, another suffix, seconds outside 0.02 (browsers
            slow down what is faster) to 600.
    """
    pixels = _to_bytes("frames", frames, "FRCHW")
    for name, seconds in (("duration", duration), ("hold_last", hold_last)):
        if not 0.02 <= seconds <= 600:
            raise ValueError(f"{name}: expected 0.02 to 600 seconds, received {seconds}")
    page = _page(pixels.shape[1:5], density=1)
    first, *rest = [_few_colours(page.hold(frame)) for frame in pixels]
    times = [round(duration * 100) * 10] * len(rest) + [round(hold_last * 100) * 10]
    options = {"append_images": rest, "duration": times, "loop": 0, "save_all": True}
    with _picture(path, ".gif") as file:
        first.save(file, "GIF", optimize=False, **options)


def loss_curve(path, steps, losses, *, title, epoch_ends=(), reference=None):
    """Write the loss of every step as a PNG, with its running mean and where it ended.

    The scale is logarithmic where that helps: all losses positive, over a factor of 3 or more.

    Args:
        path: where the picture goes; ends in .png.
        steps, losses: [N] numbers, N >= 1, steps ascending. A loss that is not finite leaves a
            gap, and the legend counts it.
        title: text above.
        epoch_ends: the steps at which epochs 1, 2, ... end.
        reference: (value, label) of a horizontal line to compare with.

    Raises:
        ValueError: steps and losses that are not vectors of one length N >= 1, another suffix.
    """
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if steps.ndim != 1 or steps.shape != losses.shape or not steps.size:
        received = f"{list(steps.shape)} and {list(losses.shape)}"
        raise ValueError(f"steps, losses: expected [N] and [N] with N >= 1, received {received}")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's would make other pictures
        figure = Figure(figsize=(8, 4.4), dpi=_DPI, layout="constrained")
        axes = figure.add_subplot(xlabel="training step", ylabel="loss")
        _draw_losses(axes, steps, np.where(np.isfinite(losses), losses, np.nan))
        if reference is not None:
            value, label = reference
            axes.axhline(value, color=_ORANGE, lw=1.3, ls="--", label=f"{label}: {value:.4g}")
        _scale_losses(axes, losses[np.isfinite(losses)])
        _mark_epochs(axes, np.asarray(epoch_ends, np.float64))
        _scale_steps(axes, steps[0], steps[-1])
        axes.set_title(title, loc="left", pad=9, fontsize=12, fontweight="bold", color=_INK)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9.5, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        _save_figure(path, figure)


def architecture(path, stages, *, title, footnote=None):
    """Write a network as a U: encoder down the left, decoder up the right, then conditioning.

    The last stage of the lowest resolution is the bottom; an encoder stage stands level with the
    decoder stage that it skips to.

    Args:
        path: where the picture goes; ends in .png.
        stages: `Stage`s, each after its inputs.
        title, footnote: text above and below.

    Raises:
        ValueError: a name used twice, an input that is no earlier stage, a shape that is neither
            (H, W, C) nor (C,), another suffix.
    """
    stages = tuple(stages)
    _check_stages(stages)
    boxes, vectors = _place(stages), {s.name for s in stages if len(s.shape) == 1}
    right, top = max(b.x + b.width for b in boxes.values()), max(b.y for b in boxes.values())
    low = min(b.y for b in boxes.values()) - 0.3
    notes = _wrap(footnote or "", lambda text: _inches(text, 9), right)
    margin, foot = 0.12, 0.2 * len(notes)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        size = (right + 2 * margin, top - low + foot + margin + 0.7)
        figure = Figure(figsize=size, dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))  # one unit of the axes is one inch
        axes.set(xlim=(-margin, right + margin), ylim=(low - foot - margin, top + 0.7))
        axes.set_axis_off()
        axes.text(0, top + 0.48, title, va="center", fontsize=12, fontweight="bold", color=_INK)
        axes.text(0, low - 0.02, "\n".join(notes), va="top", fontsize=9, color=_GREY)
        for stage in stages:
            for name in stage.inputs:
                _draw_arrow(axes, boxes[name], boxes[stage.name], name in vectors)
            _draw_box(axes, boxes[stage.name], stage)
        _save_figure(path, figure)


# ---- files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _picture(path, suffix):
    """A file to write a picture to, which takes the place of `path` when the block ends well."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"path: expected a name ending in {suffix}, received {path.name!r}")
    with replacing(path) as beside, open(beside, "wb") as file:
        yield file


def _save_figure(path, figure):
    # Without "Software" the bytes don't depend on the version's name.
    with _picture(path, ".png") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})


# ---- pages of images -----------------------------------------------------------------------------


def _to_bytes(name, images, axes):
    images = np.asarray(images)
    wanted = (images.ndim == len(axes) + 1) and images.size and images.shape[-1] in (1, 3)
    if not wanted or images.dtype.kind != "f":
        expected = f"floats [{', '.join(axes)}, 1 or 3] with no axis of length 0"
        received = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{name}: expected {expected}, received {received}")
    images = np.nan_to_num(np.clip(images, 0, 1, dtype=np.float32), nan=0)
    return np.rint(images * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Page:
    """Paper with its words, and the places kept for images."""

    paper: Image.Image
    tops: np.ndarray  # [R]
    lefts: np.ndarray  # [C]
    scale: int

    def hold(self, pixels):  # uint8 [R, C, H, W, ch]
        canvas = np.repeat(np.asarray(self.paper)[..., None], pixels.shape[-1], axis=-1)
        tiles = pixels.repeat(self.scale, axis=2).repeat(self.scale, axis=3)
        tall, wide = tiles.shape[2:4]
        for row, top in enumerate(self.tops):
            for column, left in enumerate(self.lefts):
                canvas[top : top + tall, left : left + wide] = tiles[row, column]
        return Image.fromarray(canvas if pixels.shape[-1] == 3 else canvas[..., 0])


def _page(shape, row_labels=None, column_labels=None, title=None, *, density):
    """Lay out a page; `density` is pixels per CSS pixel: 2 for what is shown at half its size."""
    rows, columns, height, width = shape
    scale = _scale(shape, density)
    pad, line = 8 * density, 20 * density
    plain, bold = _font(13 * density), _font(14 * density, "-Bold")

    labels = _labels("row_labels", row_labels, rows)
    tops, bands = _starts(height * scale, rows, labels, 2 * density, 8 * density)
    labels = _labels("column_labels", column_labels, columns)
    lefts, groups, words = _columns(width * scale, columns, labels, density)
    ends = [middle + words.getlength(text) / 2 for text, middle, _ in groups]
    starts = [middle - words.getlength(text) / 2 for text, middle, _ in groups]
    beside = max((plain.getlength(text) + pad for text, _, _ in bands), default=0)
    x = pad + int(max(beside, -min(starts, default=0)))
    right = x + int(max([lefts[-1] + width * scale, *ends])) + pad
    right = max(right, 300 * density if title else 0)
    titles = _wrap(title, bold.getlength, right - 2 * pad)
    y = pad + line * len(titles) + (pad // 2 if titles else 0) + (line if groups else 0)
    bottom = y + int(tops[-1]) + height * scale + pad

    paper = Image.new("L", (right, bottom), 255)
    draw = ImageDraw.Draw(paper)
    for k, text in enumerate(titles):
        draw.text((pad, pad + line * (k + 0.4)), text, 0, bold, "lm")
    for text, middle, _ in groups:
        draw.text((x + middle, y - line * 0.55), text, 40, words, "mm")
    for text, middle, _ in bands:
        draw.text((x - pad, y + middle), text, 40, plain, "rm")
    return _Page(paper, y + tops, x + lefts, scale)


def _scale(shape, density):
    """The integer that brings the longer direction to 800 CSS pixels, an image to 28..112."""
    rows, columns, height, width = shape
    side, fits = max(height, width), 800 * density // max(rows * height, columns * width)
    return max(-(-28 * density // side), min(fits, 112 * density // side), 1)


def _labels(name, labels, count):
    labels = [""] * count if labels is None else [str(label) for label in labels]
    if len(labels) != count:
        raise ValueError(f"{name}: expected {count} labels, received {len(labels)}")
    return labels


def _starts(tile, count, labels, gap, group_gap):
    """Where tiles begin along one direction [N], and (label, middle, length) of each group."""
    apart = 0 if all(labels) else group_gap
    gaps = [0] + [gap + (apart if label else 0) for label in labels[1:]]
    starts = np.cumsum(gaps) + tile * np.arange(count)
    firsts = [k for k, label in enumerate(labels) if label]
    groups = []
    for first, after in zip(firsts, [*firsts[1:], count][: len(firsts)], strict=True):
        begin, end = starts[first], starts[after - 1] + tile
        groups.append((labels[first], (begin + end) / 2, end - begin))
    return starts, groups


def _columns(tile, count, labels, density):
    """`_starts` of columns, and the largest font in which their labels don't touch."""
    gap, group_gap = 2 * density, 8 * density
    starts, groups = _starts(tile, count, labels, gap, group_gap)
    for size in range(13, 7, -1):
        font = _font(size * density)
        excess = max((font.getlength(t) + group_gap - room for t, _, room in groups), default=0)
        if excess <= 0:
            return starts, groups, font
    return *_starts(tile, count, labels, gap + int(excess), group_gap), font


@cache
def _font(size, style=""):
    # matplotlib's own copy of DejaVu: the same letters everywhere, Greek ones too.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{style}.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _wrap(text, measure, width):
    lines = []
    for word in (text or "").split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _few_colours(image, levels=32):
    """Fewer greys compress better: noise fills a GIF, and 32 of them look the same."""
    if image.mode == "RGB":
        return image.quantize(4 * levels, dither=Image.Dither.NONE)
    greys = np.rint(np.linspace(0, 255, levels)).astype(np.uint8)
    indices = np.rint(np.asarray(image) * ((levels - 1) / 255)).astype(np.uint8)
    few = Image.fromarray(indices, "P")
    few.putpalette(greys.repeat(3).tobytes())
    return few


# ---- curves --------------------------------------------------------------------------------------


def _draw_losses(axes, steps, losses):
    count, window = losses.size, min(losses.size // 40, 500) | 1
    missing, marker = int(np.isnan(losses).sum()), "." if count < 50 else ""
    label = f"each step ({missing} not finite, left out)" if missing else "each step"
    axes.plot(steps, losses, color=_BLUE, alpha=0.35, lw=0.7, marker=marker, label=label)
    if window > 1:
        mean = _running_mean(losses, window)
        axes.plot(steps, mean, color=_BLUE, lw=1.6, label=f"running mean of {window} steps")
    last = losses[-100:]
    if np.isfinite(last).any():
        label = f"at the end: {np.nanmean(last):.4g} (mean of the last {last.size})"
        axes.plot(steps[-1:], [np.nanmean(last)], "o", color=_INK, ms=5, label=label)


def _running_mean(losses, window):
    """Mean of the finite losses in a window around each step; a gap where the loss is one."""
    finite, ones = np.isfinite(losses), np.ones(window)
    middle = slice(window // 2, window // 2 + losses.size)
    # Not a difference of cumulative sums: one huge loss would swallow all the later ones.
    total = np.convolve(np.where(finite, losses, 0), ones)[middle]
    count = np.convolve(finite, ones)[middle]
    return np.where(finite, total / np.maximum(count, 1), np.nan)


def _scale_steps(axes, first, last):
    margin = max(0.5, 0.03 * (last - first))  # stated, as a lone point has no extent
    axes.set_xlim(first - margin, last + margin)
    whole = {"integer": True, "steps": (1, 2, 5, 10), "min_n_ticks": 1}
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, **whole))


def _scale_losses(axes, finite):
    if finite.size and finite.min() > 0 and finite.max() >= 3 * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.grid(axis="y", color="#e5e7eb", lw=0.8)


def _mark_epochs(axes, ends):
    if not ends.size:
        return
    stride = next(n for n in (1, 2, 5, 10, 20, 50, ends.size) if ends.size / n <= 10)
    shown = [n for n in range(stride, ends.size, stride) if ends.size - n > stride / 2]
    shown.append(ends.size)
    for epoch in shown:
        axes.axvline(ends[epoch - 1], color="#d1d5db", lw=0.8, zorder=0)
    top = axes.secondary_xaxis("top")
    names = [f"epoch {shown[0]}", *shown[1:]]
    top.set_ticks([ends[n - 1] for n in shown], names, fontsize=9, color=_GREY)
    top.tick_params(color="#d1d5db")
    top.spines["top"].set_visible(False)


# ---- the U ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """In inches: left edge, middle height, width."""

    x: float
    y: float
    width: float


_HIGH, _ROW, _INSET = 0.32, 0.45, 0.24


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


def _inches(text, points):
    return _font(100).getlength(text) * points / 7200


def _shape_text(stage):
    return "×".join(str(n) for n in stage.shape)


def _box_width(stage):
    return 0.36 + _inches(stage.operation, 9.5) + _inches(_shape_text(stage), 9)


def _draw_box(axes, box, stage):
    vector, merges = len(stage.shape) == 1, len(stage.inputs) > 1
    fill = "#fdeadb" if vector else "#fdf3d0" if merges else "#e3edf9"
    axes.add_patch(FancyBboxPatch(
        (box.x, box.y - _HIGH / 2), box.width, _HIGH, boxstyle="round,pad=0,rounding_size=0.05",
        fc=fill if stage.inputs else "white", ec=_ORANGE if vector else _BLUE, lw=1))  # fmt: skip
    text = {"va": "center_baseline", "zorder": 5}
    axes.text(box.x + 0.09, box.y, stage.operation, fontsize=9.5, color=_INK, **text)
    x = box.x + box.width - 0.09
    axes.text(x, box.y, _shape_text(stage), fontsize=9, color=_GREY, ha="right", **text)


def _draw_arrow(axes, a, b, vector):
    left, right = max(a.x, b.x), min(a.x + a.width, b.x + b.width)
    color = _ORANGE if vector else _INK
    if left < right:  # one above the other
        up = _HIGH / 2 if b.y > a.y else -_HIGH / 2
        start, end = ((left + right) / 2, a.y + up), ((left + right) / 2, b.y - up)
    else:
        start, end = (a.x + a.width, a.y), (b.x, b.y)
        if b.x < a.x:
            start, end = (a.x, a.y), (b.x + b.width, b.y)
        color = _ORANGE if vector else _BLUE
    arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "shrinkA": 0, "shrinkB": 0.5}
    axes.annotate("", end, start, arrowprops=arrow, zorder=0)
