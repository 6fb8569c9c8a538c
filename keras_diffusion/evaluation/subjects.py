"""What is evaluated: a finished run, through Keras, or an exported file, through onnxruntime. Both draw alike."""

import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_diffusion import cli, runs
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import (
    guidance,
    onnx_classifier,
    onnx_model,
    redrawing,
    request,
    samplers,
)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that draws.

    Attributes:
        name: as it was given.
        model: has `sample(labels, **asked)` as `DiffusionModel`.
        network: callable (x, t, label) -> out, or None where the whole sampler is one graph.
        schedule, prediction: of its tableaus.
        num_classes, class_names, image_shape: of its images.
        defaults: arguments of `sample` that hold where none is given.
        trained_on: name or file of its data, None where it doesn't say.
        weights: what tells its weights apart from others'.
        find_reader: callable without arguments -> `Classifier` that says which images are drawn again, or None.
        redraw: below which probability, unless told otherwise; 0: none is.
    """

    name: str
    model: Any
    network: Any
    schedule: Any
    prediction: str
    num_classes: int
    class_names: tuple
    image_shape: tuple
    defaults: dict
    trained_on: str | None
    weights: str
    find_reader: Any = lambda: None
    redraw: float = 0.0

    def draw(self, labels, **asked):
        """Images of labels: float32 [N, H, W, C] in [0, 1].

        Raises:
            UserError: where an argument of `sample` is out of range.
        """
        try:
            return self.model.sample(labels, **asked)
        except ValueError as error:
            raise UserError(str(error)) from None

    def asked(self, **given):
        """Everything that decides how it draws: what is given, and its defaults for the rest.

        Raises:
            UserError: where a value is out of range.
        """
        chosen = samplers.fill_in(samplers.of_plan(given), samplers.of_plan(self.defaults))
        for name in ("guidance_scale", "guidance_interval"):
            value = given.get(name, self.defaults.get(name))
            if value is not None:
                chosen[name] = value
        return chosen

    def calls(self, **given):
        """Calls of the network on an image, a guided step counting two.

        Raises:
            UserError: where a value is out of range.
        """
        asked = self.asked(**given)
        scale = asked.pop("guidance_scale", 1.0)
        interval = asked.pop("guidance_interval", None)
        try:
            plan = samplers.plan(self.schedule, self.prediction, **asked)
            weights = guidance.weights(plan, interval)
            (scale,) = request.check_scales(scale, np.zeros(1, int), self.num_classes)
        except ValueError as error:
            raise UserError(str(error)) from None
        scales = guidance.scale_now(scale, weights)
        return len(plan) + int((scales != 1).sum() if self.num_classes else 0)


def open_subject(path, *, reader=None):
    """A run's folder, or an ONNX file; None is the model that comes with the package.

    Args:
        path: of it.
        reader: path of a classifier that says which images are drawn again; None: the model's own.

    Raises:
        UserError: where it is neither, or can't be read.
    """
    if path is not None and pathlib.Path(path).is_dir():
        return _of_run(path, reader)
    if path is not None and not pathlib.Path(path).exists():
        raise UserError(
            f"{path}: expected a run's folder (of fit.py) or an ONNX file (of convert.py), found none"
        )
    model = onnx_model.load(path, reader=reader)
    spec = model.spec
    trained = spec.training.get("settings")
    return Subject(
        name=str(path or "the model that comes with the package"),
        model=model,
        network=model.network if spec.kind == "denoiser" else None,
        schedule=spec.make_schedule(),
        prediction=spec.prediction,
        num_classes=spec.num_classes,
        class_names=spec.class_names,
        image_shape=spec.image_shape,
        defaults=dict(spec.defaults),
        trained_on=_text(trained.get("data")) if isinstance(trained, dict) else None,
        weights=f"{spec.weights_sha256} {spec.precision}",
        find_reader=lambda: model.reader,
        redraw=model.usual_redraw,
    )


def _of_run(folder, reader):
    run, record = runs.finished(folder)
    cli.need("tensorflow", extra="train")
    cli.load_tensorflow()
    model = runs.load_sampler(run)
    names = runs.class_names(record, model.num_classes)
    return of_model(
        model,
        reader=onnx_classifier.reader(reader, image_shape=model.image_shape, class_names=names),
        name=str(folder),
        class_names=names,
        trained_on=_text(record["settings"].get("data")),
    )


def of_model(model, *, name, class_names, trained_on=None, reader=None):
    """A `DiffusionModel` in memory, drawing with TensorFlow.

    Args:
        model: `DiffusionModel`.
        name: what it is called.
        class_names: one a class.
        trained_on: name or file of its data.
        reader: `Classifier` that says which images are drawn again, or None.
    """
    return Subject(
        name=name,
        model=model,
        network=lambda x, t, label: model.denoise(x, t, label).numpy(),
        schedule=model.schedule,
        prediction=model.prediction,
        num_classes=model.num_classes,
        class_names=tuple(class_names),
        image_shape=model.image_shape,
        defaults=dict(model.sampling),
        trained_on=trained_on,
        weights=specs.weights_sha256(model.sampling_network.get_weights()),
        find_reader=lambda: reader,
        redraw=0.0 if reader is None else redrawing.BELOW,
    )


def _text(value):
    """What a file says, where it is text."""
    return value if isinstance(value, str) else None


def real_labels(subject, count, data):
    """The classes of real images to set beside generated ones: the same, or, where none are asked for, as the training set has them."""
    if subject.num_classes:
        return labels_for(subject, count)
    order = np.random.default_rng(0).permutation(len(data.y_train))
    return np.sort(data.y_train[order[:count]])


def labels_for(subject, count):
    """As many labels of each class, class by class: int [N]. Of data, as of a subject, only the number of classes counts.

    Raises:
        UserError: where the count doesn't divide among the classes.
    """
    classes = subject.num_classes or 1
    if count % classes:
        raise UserError(f"--num-samples: expected a multiple of the {classes} classes, got {count}")
    return np.repeat(np.arange(classes), count // classes)
