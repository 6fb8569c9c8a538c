"""Pages of images: grids and animations. Images are placed pixel by pixel, never resampled."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from keras_diffusion.figures.style import font, picture, wrap


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
    with picture(path, ".png") as file:
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
    with picture(path, ".gif") as file:
        first.save(file, "GIF", optimize=False, **options)


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
    plain, bold = font(13 * density), font(14 * density, "-Bold")

    labels = _labels("row_labels", row_labels, rows)
    tops, bands = _starts(height * scale, rows, labels, 2 * density, 8 * density)
    labels = _labels("column_labels", column_labels, columns)
    lefts, groups, fitted = _columns(width * scale, columns, labels, density)
    x, right = _sides(bands, plain, groups, fitted, lefts[-1] + width * scale, pad)
    right = max(right, 300 * density if title else 0)
    titles = wrap(title, bold.getlength, right - 2 * pad)
    y = pad + line * len(titles) + (pad // 2 if titles else 0) + (line if groups else 0)
    bottom = y + int(tops[-1]) + height * scale + pad

    words = [((pad, pad + line * (k + 0.4)), text, 0, bold, "lm") for k, text in enumerate(titles)]
    words += [((x + middle, y - line * 0.55), text, 40, fitted, "mm") for text, middle, _ in groups]
    words += [((x - pad, y + middle), text, 40, plain, "rm") for text, middle, _ in bands]
    return _Page(_paper((right, bottom), words), y + tops, x + lefts, scale)


def _sides(bands, plain, groups, fitted, width, pad):
    """Where the images begin, and how wide the page is: no label of a row or column is cut."""
    beside = max((plain.getlength(text) + pad for text, _, _ in bands), default=0)
    starts = [middle - fitted.getlength(text) / 2 for text, middle, _ in groups]
    ends = [middle + fitted.getlength(text) / 2 for text, middle, _ in groups]
    x = pad + int(max(beside, -min(starts, default=0)))
    return x, x + int(max([width, *ends])) + pad


def _paper(size, words):
    paper = Image.new("L", size, 255)
    draw = ImageDraw.Draw(paper)
    for place, text, grey, letters, anchor in words:
        draw.text(place, text, grey, letters, anchor)
    return paper


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
        letters = font(size * density)
        excess = max((letters.getlength(t) + group_gap - room for t, _, room in groups), default=0)
        if excess <= 0:
            return starts, groups, letters
    return *_starts(tile, count, labels, gap + int(excess), group_gap), letters


def _few_colours(image, levels=32):
    """Fewer greys compress better: noise fills a GIF, and 32 of them look the same."""
    if image.mode == "RGB":
        return image.quantize(4 * levels, dither=Image.Dither.NONE)
    greys = np.rint(np.linspace(0, 255, levels)).astype(np.uint8)
    indices = np.rint(np.asarray(image) * ((levels - 1) / 255)).astype(np.uint8)
    few = Image.fromarray(indices, "P")
    few.putpalette(greys.repeat(3).tobytes())
    return few
