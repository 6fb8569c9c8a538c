"""Speed and memory against size."""

from matplotlib import ticker
from matplotlib.figure import Figure

from keras_diffusion.figures import style
from keras_diffusion.figures.style import BLUE, INK, ORANGE


def growth(path, panels, *, title):
    """Write small charts side by side as a PNG, both axes logarithmic, a line a side.

    Args:
        path: where the picture goes; ends in .png.
        panels: dict of (name of x, name of y) to a dict of a side to a list of (x, y), both positive. The first side is blue.
        title: text above.

    Raises:
        ValueError: another suffix, or no panels.
    """
    if not panels:
        raise ValueError("panels: expected at least one, received none")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    sides = list(dict.fromkeys(side for curves in panels.values() for side in curves))
    with style.defaults():
        figure = Figure(figsize=(8, 3.2 * lines + 0.6), dpi=style.DPI, layout="constrained")
        for place, ((x_name, y_name), curves) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(lines, columns, place, xlabel=x_name, ylabel=y_name)
            for side, points in curves.items():
                colour = (BLUE, ORANGE)[sides.index(side) % 2]
                axes.plot(*zip(*sorted(points), strict=True), "o-", color=colour, lw=1.5, ms=4)
            _scale(axes, sorted({x for points in curves.values() for x, _ in points}))
        marks = [
            (figure.axes[0].plot([], [], "o-", color=(BLUE, ORANGE)[k % 2])[0])
            for k in range(len(sides))
        ]
        figure.legend(marks, sides, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        style.save_figure(path, figure)


def _scale(axes, values):
    """Logarithmic, with the values that were measured as the marks of x."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(axis="y", color="#e5e7eb", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
