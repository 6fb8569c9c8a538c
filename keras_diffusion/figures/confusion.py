"""Which class was asked for, and which was read."""

import numpy as np
from matplotlib.figure import Figure

from keras_diffusion.figures import style
from keras_diffusion.figures.style import GREY, INK


def confusion(path, matrix, names, *, title):
    """Write a confusion matrix as a PNG: colours of shares, numbers of images.

    Args:
        path: where the picture goes; ends in .png.
        matrix: int [K, K], a row a class that was asked for.
        names: K of them.
        title: text above.

    Raises:
        ValueError: a matrix of another shape, another suffix.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(names), len(names)):
        shape = list(matrix.shape)
        raise ValueError(f"matrix: expected [{len(names)}, {len(names)}], received {shape}")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with style.defaults():
        side = 2.2 + 0.5 * len(names)
        figure = Figure(figsize=(side, side), dpi=style.DPI, layout="constrained")
        axes = figure.add_subplot(xlabel="read as", ylabel="asked for")
        # Errors are few: the root brings them out.
        axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1.15)
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.4 else INK
            text = f"{matrix[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        turn = 45 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(len(names)), names, rotation=turn, ha="right" if turn else "center")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelcolor=GREY)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
        style.save_figure(path, figure)
