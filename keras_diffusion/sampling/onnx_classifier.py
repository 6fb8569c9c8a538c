"""A small classifier as an ONNX file: it reads images, and gives the features that distances are taken in."""

import hashlib
import json
import pathlib

import numpy as np

from keras_diffusion.errors import UserError
from keras_diffusion.sampling.onnx_session import Session, metadata
from keras_diffusion.spec import MAX_TEXT

KEY = "keras_diffusion_judge"  # of the metadata
FORMAT = 1
MEAN_OF = "mean_of"  # in the recipe of a file of several: a dict for each, `sha256` among it
_AT_ONCE = 500
_FIELDS = {
    "format": int,
    "data": dict,
    "class_names": list,
    "image_shape": list,
    "test_accuracy": float,
    "recipe": dict,
}


class Classifier:
    """Reads images: a judge, or the reader beside a model that draws.

    Args:
        path: an ONNX file that scripts/train_judge.py wrote.
        threads: as for `onnx_model.load`.

    Attributes:
        says: what the file says of itself: data, class_names, test_accuracy, recipe.
        sha256: of the file.
        hashes: that, and those of the files that were joined in it (`joining.join`): frozenset of texts.

    Raises:
        UserError: where there is no such file, or it is no classifier.
    """

    def __init__(self, path, *, threads=None):
        path = pathlib.Path(path)
        self.path = path
        self._session = Session(path, threads)
        self.says = _read(metadata(self._session.whole, KEY), path)
        if not _fits(self._session.whole, self.says):
            raise _foreign(path)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        joined = self.says["recipe"].get(MEAN_OF, [])
        self.hashes = frozenset([self.sha256, *(one["sha256"] for one in joined)])

    @property
    def num_classes(self):
        """K."""
        return len(self.says["class_names"])

    @property
    def num_features(self):
        """F."""
        outputs = self._session.whole.get_outputs()
        return next(o.shape[1] for o in outputs if o.name == "features")

    def __call__(self, images):
        """What it makes of images.

        Args:
            images: float32 [N, H, W, C] in [0, 1].

        Returns:
            (logits float32 [N, K], features float32 [N, F]).

        Raises:
            UserError: where the images are of another shape than it was trained on.
        """
        shape = tuple(self.says["image_shape"])
        if images.ndim != 4 or images.shape[1:] != shape:
            raise UserError(f"classifier: expected images [N, {shape}], got {images.shape}")
        parts = [
            self._session.call(["logits", "features"], {"x": images[i : i + _AT_ONCE]})
            for i in range(0, len(images), _AT_ONCE)
        ]
        logits, features = (np.concatenate(some) for some in zip(*parts, strict=True))
        return logits, features

    def probabilities(self, images):
        """How sure it is of each class: float32 [N, K] of images as above."""
        logits, _ = self(images)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def reader(path, *, image_shape, class_names, threads=None, option="--reader"):
    """The `Classifier` that says which of a model's images are drawn again; None where no path is given.

    Args:
        path: of the file, or None.
        image_shape: (H, W, C) of the model.
        class_names: K of them.
        threads: as `Classifier` takes them.
        option: that asked for it.

    Raises:
        UserError: as `Classifier`, and where it reads other images or classes.
    """
    if path is None:
        return None
    found = Classifier(path, threads=threads)
    for name, wanted in (("image_shape", image_shape), ("class_names", class_names)):
        if found.says[name] != list(wanted):
            raise UserError(
                f"{option}: expected one of {name} {list(wanted)}, got {path} of {found.says[name]}"
            )
    return found


def single(path, *, image_shape, class_names, option):
    """The `Classifier` of a path, as `reader`, which is one alone.

    Raises:
        UserError: as `reader`, and where several were joined in it.
    """
    found = reader(path, image_shape=image_shape, class_names=class_names, option=option)
    if MEAN_OF in found.says["recipe"]:
        raise UserError(f"{option}: expected files of one classifier each, got {path} of several")
    return found


def _read(text, path):
    try:
        says = json.loads((text or "")[:MAX_TEXT])
        good = isinstance(says, dict) and all(
            isinstance(says.get(name), kind) for name, kind in _FIELDS.items()
        )
        good = good and _names_files(says["recipe"].get(MEAN_OF, []))
    except (ValueError, RecursionError):
        good = False
    if not good or says["format"] != FORMAT:
        raise _foreign(path)
    return says


def _names_files(joined):
    """Whether it is a list of dicts that have the text `sha256`."""
    return isinstance(joined, list) and all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in joined
    )


def _fits(opened, says):
    """Whether a file's graph is that of a classifier of such images and classes."""
    given = {value.name: (value.type, list(value.shape[1:])) for value in opened.get_inputs()}
    found = {value.name: (value.type, value.shape[1:]) for value in opened.get_outputs()}
    names = says["class_names"]
    return (
        given == {"x": ("tensor(float)", says["image_shape"])}
        and found.get("logits") == ("tensor(float)", [len(names)])
        and all(isinstance(name, str) for name in names)
        and "features" in found
        and len(found["features"][1]) == 1
        and isinstance(found["features"][1][0], int)
    )


def _foreign(path):
    return UserError(
        f"{path}: expected a classifier that scripts/train_judge.py wrote, got another file"
    )
