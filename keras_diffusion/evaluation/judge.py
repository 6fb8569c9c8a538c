"""The judge: a classifier that comes with the package, or one of the user's own, which reads what a model draws."""

import pathlib

from keras_diffusion.errors import UserError
from keras_diffusion.sampling.onnx_classifier import Classifier

MODELS = pathlib.Path(__file__).parent.parent / "models"
SHIPPED = (MODELS / "judge-mnist.onnx", MODELS / "judge-fashion.onnx")


def of_classes(class_names, *, path=None):
    """The judge of some classes.

    Args:
        class_names: as the data has them.
        path: of a judge; None: the one that comes with the package.

    Raises:
        UserError: where it is of other classes, or none of these comes with the package.
    """
    judges = (
        [Classifier(path)]
        if path
        else [Classifier(shipped) for shipped in SHIPPED if shipped.is_file()]
    )
    for judge in judges:
        if tuple(judge.says["class_names"]) == tuple(class_names):
            return judge
    raise UserError(
        f"--judge: expected one of the classes {', '.join(class_names)}, got none; scripts/train_judge.py makes one"
    )
