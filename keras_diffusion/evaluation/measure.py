"""Everything that is measured of a set of images, real or generated alike: a floor is the same function of real images."""

import functools
from dataclasses import dataclass, field

import numpy as np

from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import distances, intervals

_FLOORS = 5


@dataclass(frozen=True, eq=False)
class Judged:
    """Images with what the judge makes of them.

    Attributes:
        images: float32 [N, H, W, C] in [0, 1].
        labels: int [N]: what they are, or were asked to be; K where no class was asked for.
        logits: float32 [N, K].
        features: float32 [N, F].
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray = field(repr=False)
    features: np.ndarray = field(repr=False)

    def __len__(self):
        return len(self.images)

    def part(self, chosen):
        """Some of them, by an index."""
        return Judged(
            self.images[chosen], self.labels[chosen], self.logits[chosen], self.features[chosen]
        )

    @property
    def read(self):
        """What the judge reads: int [N]."""
        return self.logits.argmax(axis=1)


def judged(judge, images, labels):
    """Images that a judge has seen; uint8 images are brought to [0, 1]."""
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    return Judged(images, np.asarray(labels, np.int64), *judge(images))


@dataclass(frozen=True, eq=False)
class References:
    """Real images: those to compare with, and as many as are generated, for the floor.

    Attributes:
        test: the test set.
        train: the training set without `floor`.
        floor: real training images, of the classes that are generated, as many of each.
        frechet_floor: Fréchet distance of such sets of real images from the test set, [5]: at small counts it depends on which images they are.
    """

    test: Judged
    train: Judged
    floor: Judged
    frechet_floor: np.ndarray

    @functools.cached_property
    def from_test(self):
        """Function of (mean, covariance) to the Fréchet distance from the test set: the same for every way that is scored."""
        return distances.frechet_from(distances.moments(self.test.features))


def references(judge, data, labels, *, seed=0):
    """Real images for generated ones of these labels.

    Args:
        judge: `onnx_classifier.Classifier`.
        data: `data.ImageData`.
        labels: int [N] of the generated images.
        seed: of the choice.

    Raises:
        UserError: where the training set hasn't as many of a class, and as many again to compare with.
    """
    rng = np.random.default_rng(seed)
    sets = [_like(labels, data, rng) for _ in range(_FLOORS)]
    train = judged(judge, data.x_train, data.y_train)
    test = judged(judge, data.x_test, data.y_test)
    distance = distances.frechet_from(distances.moments(test.features))
    floors = [distance(distances.moments(train.features[chosen])) for chosen in sets]
    rest = np.ones(len(train), bool)
    rest[sets[0]] = False
    return References(
        test=test,
        train=train.part(rest),
        floor=train.part(sets[0]),
        frechet_floor=np.array(floors),
    )


def _like(labels, data, rng):
    """Training images with these labels, at random: indices [N]."""
    order = rng.permutation(len(data.x_train))
    chosen = []
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        of_class = order[data.y_train[order] == label]
        if 2 * count > len(of_class):
            raise UserError(
                f"--num-samples: expected at most {len(of_class) // 2} of class {label}, half of the real ones, got {count}"
            )
        chosen.append(of_class[:count])
    return np.concatenate(chosen)


def score(judge, images, labels, real):
    """The two figures that ways to draw are compared by, without intervals.

    Args:
        judge: `onnx_classifier.Classifier`.
        images: float32 [N, H, W, C] in [0, 1].
        labels: int [N].
        real: `References` for these labels.

    Returns:
        dict of floats: `accuracy`, `frechet` from the test set, and `over_floor`, that in units of real images'.
    """
    some = judged(judge, images, labels)
    distance = real.from_test(distances.moments(some.features))
    return {
        "accuracy": float((some.read == labels).mean()),
        "frechet": float(distance),
        "over_floor": float(distance / real.frechet_floor.mean()),
    }


def least(features):
    """How many images each figure takes.

    Args:
        features: F. A covariance of fewer than F + 1 images has no full rank; twice as many make it usable.
    """
    return {"class accuracy": 100, "Fréchet distance": 2 * features, "precision and recall": 100}


def check_count(count, features):
    """Whether there are images enough for every figure.

    Raises:
        UserError: where there aren't.
    """
    for name, needed in least(features).items():
        if count < needed:
            raise UserError(
                f"--num-samples: expected at least {needed} for the {name}, got {count}"
            )


def measure(some, real):
    """What is measured of images.

    Args:
        some: `Judged`.
        real: `References`.

    Returns:
        A dict for evaluation.json: each figure as {"value", "interval"}.
    """
    found = {"count": len(some)}
    if (some.labels < some.logits.shape[1]).all():
        found |= accuracy(some)
    found["classes_read"] = np.bincount(some.read, minlength=some.logits.shape[1]).tolist()
    for name in ("test", "train"):
        other = getattr(real, name)
        found[f"frechet_{name}"] = frechet(some, other)
        values = distances.kernel(some.features, other.features)
        found[f"kernel_{name}"] = _figure(
            values.mean(), intervals.bootstrap(len(values), lambda rows, v=values: v[rows].mean())
        )
    return found | manifold(some, real.test)


def accuracy(some):
    """Class accuracy: in all, of each class, and the confusion matrix (a row a class that was asked for)."""
    hits, classes = some.read == some.labels, some.logits.shape[1]
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (some.labels, some.read), 1)
    return {
        "accuracy": _figure(hits.mean(), intervals.proportion(hits)),
        "accuracy_per_class": {
            int(k): _figure(
                hits[some.labels == k].mean(), intervals.proportion(hits[some.labels == k])
            )
            for k in np.unique(some.labels)
        },
        "confusion": matrix.tolist(),
    }


def frechet(some, other):
    """Fréchet distance with its interval over the images' choice."""
    distance = distances.frechet_from(distances.moments(other.features))

    def statistic(rows):
        return distance(distances.moments(some.features[rows]))

    interval = intervals.bootstrap(len(some), statistic)
    return _figure(statistic(np.arange(len(some))), interval)


def manifold(some, other):
    """Precision, recall, density and coverage against at most as many real images, chosen at random."""
    order = np.random.default_rng(0).permutation(len(other))
    other = other.part(order[: len(some)])
    found = {}
    for name, values in distances.manifold(some.features, other.features).items():
        if values.dtype == bool:
            interval = intervals.proportion(values)
        else:
            interval = intervals.bootstrap(len(values), lambda rows, v=values: v[rows].mean())
        found[name] = _figure(values.mean(), interval)
    return found


def memorisation(some, real):
    """How near images are to training images, beside how near real ones are.

    Args:
        some: `Judged`, generated.
        real: `References`.

    Returns:
        (dict for evaluation.json, indices [N] into `real.train`, distances [N]).
    """
    distance, index = distances.nearest(some.images, real.train.images)
    floor, _ = distances.nearest(real.floor.images, real.train.images)
    line = float(np.quantile(floor, 0.01))
    closer = distance < line
    found = {
        "median_distance": float(np.median(distance)),
        "median_distance_of_real": float(np.median(floor)),
        # 1% of the real images are that near to another training image.
        "share_nearer_than_real": _figure(closer.mean(), intervals.proportion(closer)),
    }
    return found, index, distance


def _figure(value, interval):
    return {"value": float(value), "interval": [float(bound) for bound in interval]}
