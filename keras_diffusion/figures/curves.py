"""Loss curves."""

import io

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from keras_diffusion.figures import style
from keras_diffusion.figures.style import BLUE, GREY, INK, ORANGE


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
    steps, losses = _checked(steps, losses)
    with style.defaults():
        figure = Figure(figsize=(8, 4.4), dpi=style.DPI, layout="constrained")
        axes = figure.add_subplot(xlabel="training step", ylabel="loss")
        begin = epoch_ends[-2] if len(epoch_ends) > 1 else -np.inf  # of the last epoch
        last = max(1, min(100, int(np.sum(steps > begin))))
        _draw_losses(axes, steps, np.where(np.isfinite(losses), losses, np.nan), last=last)
        if reference is not None:
            value, label = reference
            axes.axhline(value, color=ORANGE, lw=1.3, ls="--", label=f"{label}: {value:.4g}")
        _scale_losses(axes, losses[np.isfinite(losses)])
        _mark_epochs(axes, np.asarray(epoch_ends, np.float64))
        _scale_steps(axes, steps[0], steps[-1])
        axes.set_title(title, loc="left", pad=9, fontsize=12, fontweight="bold", color=INK)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9.5, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        style.save_figure(path, figure)


def loss_curves(curves):
    """Running means of two runs' losses in one picture, the first blue, the second orange, on no ground of its own.

    Args:
        curves: two of (x, losses): the training images seen [N], rising, and the losses [N], N >= 1.

    Returns:
        SVG, as bytes; the same input gives the same bytes.

    Raises:
        ValueError: x and losses that are not vectors of one length N >= 1.
    """
    with style.defaults():
        matplotlib.rcParams["svg.hashsalt"] = "keras-diffusion"
        figure = Figure(figsize=(8, 4), facecolor="none")
        # Stated, as looking for them takes as long as drawing, and a page has many of these.
        figure.subplots_adjust(left=0.1, right=0.97, bottom=0.125, top=0.92)
        axes = figure.add_subplot(xlabel="training images seen")
        axes.set_title("loss, running mean", loc="left", fontsize=10)
        means = []
        for (x, losses), colour in zip(curves, (BLUE, ORANGE), strict=True):
            x, losses = _checked(x, losses)
            window = min(losses.size // 40, 500) | 1
            thin = slice(None, None, max(losses.size // 500, 1))
            means.append(_running_mean(losses, window)[thin])
            marker = "o" if losses.size < 5 else ""
            axes.plot(x[thin], means[-1], color=colour, lw=1.8, marker=marker)
        every = np.concatenate(means)
        _scale_losses(axes, every[np.isfinite(every)])
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axes.yaxis.set_major_formatter("{x:g}")  # a power of ten over the axis would have no room
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        file = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _checked(steps, losses):
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if steps.ndim != 1 or steps.shape != losses.shape or not steps.size:
        received = f"{list(steps.shape)} and {list(losses.shape)}"
        raise ValueError(f"steps, losses: expected [N] and [N] with N >= 1, received {received}")
    return steps, losses


def _draw_losses(axes, steps, losses, *, last):
    count, window = losses.size, min(losses.size // 40, 500) | 1
    missing, marker = int(np.isnan(losses).sum()), "." if count < 50 else ""
    label = f"each step ({missing} not finite, left out)" if missing else "each step"
    axes.plot(steps, losses, color=BLUE, alpha=0.35, lw=0.7, marker=marker, label=label)
    if window > 1:
        mean = _running_mean(losses, window)
        axes.plot(steps, mean, color=BLUE, lw=1.6, label=f"running mean of {window} steps")
    last = losses[-last:]
    if np.isfinite(last).any():
        label = f"at the end: {np.nanmean(last):.4g} (mean of the last {last.size})"
        axes.plot(steps[-1:], [np.nanmean(last)], "o", color=INK, ms=5, label=label)


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
    top.set_ticks([ends[n - 1] for n in shown], names, fontsize=9, color=GREY)
    top.tick_params(color="#d1d5db")
    top.spines["top"].set_visible(False)
