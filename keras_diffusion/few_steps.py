"""What all students share: a network that is trained for the few calls in which it will draw."""

import copy

import keras
import tensorflow as tf

from keras_diffusion import schedules
from keras_diffusion.nn import blocks, refining
from keras_diffusion.sampling import samplers
from keras_diffusion.training import DiffusionModel


class FewSteps(DiffusionModel):
    """Base of the models that train a student. Its sampler is ddim without fresh noise, at `times`, unguided: a call each.

    The statistics of BatchNorm stay as they are: a student is called in training as it is when it samples.

    Args:
        network: the student's, as for `DiffusionModel`.
        schedule: `Schedule`.
        times: float [S], falling from T.
        kwargs: of `DiffusionModel`.

    Attributes:
        partner: name of the argument that is another Keras model, which isn't trained.
    """

    partner: str

    def __init__(self, network, schedule, *, times, **kwargs):
        self.times = [float(t) for t in times]
        unguided = {"guidance_scale": 1.0} if "label" in network.input else {}
        drawing = {"sampler": "ddim", "spacing": self.times, **unguided}
        super().__init__(network, schedule, sampling=drawing, **kwargs)
        _hold_biases(network)
        self._plan = samplers.plan(schedule, self.prediction, sampler="ddim", spacing=self.times)

    def student(self):
        """The student as it is: a `DiffusionModel` that draws at `times` unless told otherwise."""
        return DiffusionModel(
            sampling_copy(self),
            self.schedule,
            prediction=self.prediction,
            label_dropout=self.label_dropout,
            ema_decay=None,
            num_classes=self.num_classes,
            seed=self.seed,
            data_std=self.data_std,
            sampling=self.sampling,
        )

    def get_config(self):
        config = super().get_config()
        del config["sampling"]  # follows from the times
        partner = keras.saving.serialize_keras_object(getattr(self, self.partner))
        return {**config, "times": self.times, self.partner: partner}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = copy.deepcopy(config)  # Keras empties what it deserializes
        models = {
            name: keras.saving.deserialize_keras_object(config.pop(name), custom_objects)
            for name in ("network", cls.partner)
        }
        schedule = schedules.from_config(config.pop("schedule"))
        return cls(models.pop("network"), schedule, **models, **config)


def sampling_copy(model):
    """A network of its own with the weights that a model samples by, to be trained."""
    # Not of the averaged one, which isn't to be trained, nor are its copies.
    made = blocks.copied(model.network, model.sampling_network.get_weights())
    if refining.has_refiner(made):
        refining.train_all(refining.parts(made)[0])  # which a `Refining` has held
    return made


def check_draws(model):
    """Whether a model is one that a student can be made of.

    Raises:
        ValueError: where it is a one-step denoiser.
    """
    if model.schedule.num_train_steps == 1:
        raise ValueError("model: expected one that draws from noise, got a one-step denoiser")


def _hold_biases(network):
    """A bias before `BatchNorm` isn't trained: with held statistics `beta` does the same."""
    for layer in blocks.layers(network):
        if isinstance(layer, blocks.BatchNorm):
            layer.bias.trainable = False


def at_rows(column, rows):
    """A tableau's column at rows [N]: float32 [N, 1, 1, 1]."""
    return tf.gather(tf.constant(column, tf.float32), rows)[:, None, None, None]
