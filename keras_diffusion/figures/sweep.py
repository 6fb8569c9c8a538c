"""Quality against the number of network calls."""

from itertools import cycle

from matplotlib import ticker
from matplotlib.figure import Figure

from keras_diffusion.figures import style
from keras_diffusion.figures.style import BLUE, GREY, INK, ORANGE

_COLOURS = (BLUE, ORANGE, "#2f7d4f", "#8a4fa3", "#a3852b", "#4a4a4a")


def sweep(path, lines, *, floor, title):
    """Write a picture of distance against network calls as a PNG, a line a sampler.

    Args:
        path: where the picture goes; ends in .png.
        lines: dict of a name to a list of (calls, distance, label), in the order of calls; a label is written beside its point.
        floor: the distance of as many real images.
        title: text above.

    Raises:
        ValueError: another suffix.
    """
    with style.defaults():
        figure = Figure(figsize=(8, 4.8), dpi=style.DPI, layout="constrained")
        axes = figure.add_subplot(xlabel="network calls an image", ylabel="Fréchet distance")
        for (name, points), colour in zip(lines.items(), cycle(_COLOURS), strict=False):
            calls, distances, labels = zip(*points, strict=True)
            axes.plot(calls, distances, "o-", color=colour, lw=1.5, ms=4, label=name)
            for x, y, label in zip(calls, distances, labels, strict=True):
                axes.annotate(
                    label,
                    (x, y),
                    xytext=(3, 5),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
        axes.axhline(floor, color=GREY, ls="--", lw=1.2, label=f"as many real images: {floor:.3g}")
        for scale in (axes.set_xscale, axes.set_yscale):
            scale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.grid(axis="y", color="#e5e7eb", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
        style.save_figure(path, figure)
