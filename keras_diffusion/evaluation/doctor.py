"""Whether a network listens to its class, and what guidance makes of it: a few calls tell, during training too."""

from dataclasses import dataclass

import numpy as np

from keras_diffusion import noise, predictions

# Of t/T: above, only noise is left; below, the image says its class itself.
LEVELS = (0.3, 0.5, 0.7, 0.9)
DEAD = 0.01  # of the pixels' range
ALIKE = 0.7  # of what real images of a class differ by: on MNIST guidance 2 has 0.77, 5 0.63
PLATEAU = (0.36, 0.46)
LOWEST_GELU = -0.17
_PLATEAU_SEEN = 2  # epochs at the plateau before it is called one


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        gap: root mean square difference of the estimates of x0 with a class and without, in the pixels' range.
        lowest: the smallest number that the network put out.
        variety: how much guided samples of a class differ, over how much real images do; None where none were drawn.
        accuracy: the share of guided samples that a judge reads as asked; None without a judge or samples.
    """

    gap: float
    lowest: float
    variety: float | None = None
    accuracy: float | None = None


def examine(network, schedule, prediction, x0, labels, *, null_label, seed=0):
    """Looks at single calls of a network on real images with noise.

    Args:
        network: callable (x, t, label) -> out, NumPy arrays.
        schedule: `Schedule`.
        prediction: "eps", "x0", "v" or "flow".
        x0: float32 [N, H, W, C] in [0, 1].
        labels: int [N], their classes.
        null_label: the label of no class.
        seed: of the noise.
    """
    keys = noise.image_keys(seed, labels, noise.occurrence(labels))
    eps = noise.normal(keys, draw=0, shape=x0.shape[1:])
    squares, lowest = [], np.inf
    for level in LEVELS:
        t = np.full(len(x0), np.round(level * schedule.num_train_steps))
        alpha, sigma = (value[:, None, None, None] for value in schedule.at(t))
        xt = (alpha * x0 + sigma * eps).astype(np.float32)
        now = (t / schedule.num_train_steps).astype(np.float32)
        cond, uncond = (
            np.asarray(network(xt, now, np.asarray(label, np.int32)))
            for label in (labels, np.full(len(x0), null_label))
        )
        _, q = predictions.to_x0(prediction, alpha, sigma)
        squares.append(np.mean((q * (cond - uncond)) ** 2))
        lowest = min(lowest, float(cond.min()))
    return Examination(gap=float(np.sqrt(np.mean(squares))), lowest=lowest)


def variety(images, real, labels):
    """How much images of a class differ from each other, over how much real ones with the same labels do.

    Two images differ by 1 - cos of the angle between their pixels, which bold strokes don't enlarge as they do a variance.

    Args:
        images, real: float [N, ...].
        labels: int [N], at least two of each.
    """

    def differ(some):
        flat = some.reshape(len(some), -1).astype(np.float64)
        flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
        return 1 - (flat @ flat.T)[same].mean()

    return float(differ(images) / max(differ(real), 1e-12))


def warnings(found, *, scale=None):
    """What is wrong, in words: a list of lines.

    Args:
        found: `Examination`.
        scale: the guidance scale of the samples.
    """
    lines = []
    if found.gap < DEAD:
        lines.append(
            f"conditioning is dead: with a class and without, the estimated images differ by {found.gap:.4f} of the pixels' range, expected {DEAD} at least;"
            " look whether labels belong to their images and label_dropout is well below 1"
        )
    if found.variety is not None and found.variety < ALIKE:
        lines.append(
            f"guidance {scale:g} saturates: images of a class differ {found.variety:.2f} times as much as real ones, expected {ALIKE} at least;"
            " a smaller scale draws more kinds"
        )
    return lines


def plateau(losses, found, prediction):
    """What is wrong where the loss of eps stands at its plateau; None where it doesn't.

    Args:
        losses: of the epochs so far, all times weighed alike.
        found: `Examination`.
        prediction: what the network predicts.
    """
    last = losses[-_PLATEAU_SEEN:]
    stuck = len(last) == _PLATEAU_SEEN and all(PLATEAU[0] <= loss <= PLATEAU[1] for loss in last)
    if prediction != "eps" or not stuck:
        return None
    line = f"the loss stands at {last[-1]:.3f}"
    if found.lowest >= LOWEST_GELU - 0.01:
        return (
            f"{line} and no output is below {found.lowest:.2f}: an activation behind the last convolution cuts off half of the noise,"
            " and the loss can't fall below 0.378; take it away"
        )
    return f"{line}, where a network ends whose outputs can't be negative; look at its last layer"
