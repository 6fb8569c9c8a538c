"""Learning rates that are lowered while a model trains, or fall by what it has come to."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Lowered(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, times a factor.

    Args:
        rate: number or `LearningRateSchedule`.
        factor: number.
    """

    def __init__(self, rate, factor):
        super().__init__()
        self.rate, self.factor = rate, factor

    def __call__(self, step):
        return self.factor * _at(self.rate, step)

    def get_config(self):
        return {"rate": _to_config(self.rate), "factor": self.factor}

    @classmethod
    def from_config(cls, config):
        return cls(_from_config(config["rate"]), config["factor"])


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Nearing(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate in proportion to how far `Matching` still has to go: a rate that goes far at first swings about the end later.

    Args:
        wave: number or `LearningRateSchedule` that it is multiplied by.
        share: of the distance (`Matching.distance`).
        least, most: what that is kept between.

    Attributes:
        distance: a variable, which `tell` sets where a step is traced; until then the rate is the largest.
    """

    def __init__(self, wave=1.0, *, share=0.01, least=4e-5, most=1e-3):
        super().__init__()
        self.wave, self.share, self.least, self.most = wave, share, least, most
        self.distance = None

    def __call__(self, step):
        return _at(self.wave, step) * (
            self.most if self.distance is None else self.at(self.distance)
        )

    def at(self, distance):
        """The rate at a distance, where the wave is 1."""
        return ops.clip(self.share * ops.cast(distance, "float32"), self.least, self.most)

    def get_config(self):
        wave = _to_config(self.wave)
        return {"wave": wave, "share": self.share, "least": self.least, "most": self.most}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "wave": _from_config(config["wave"])})


def tell(model, distance):
    """Where a model's step is traced: names the variable that says how far it still has to go to its rate, if that goes by it."""
    rate = _optimizer(model)._learning_rate
    while isinstance(rate, Lowered):
        rate = rate.rate
    if isinstance(rate, Nearing):
        rate.distance = distance


def factor_of(model):
    """How far the rate of a compiled model was lowered: 1 where it never was."""
    rate = _rate(model)
    return rate.factor if isinstance(rate, Lowered) else 1.0


def lower(model, factor):
    """Multiplies a compiled model's rate, in every step that follows; the optimizer's state stays.

    Args:
        model: `keras.Model` whose rate is a number or a schedule.
        factor: number.
    """
    _optimizer(model).learning_rate = _times(_rate(model), factor)


def _times(rate, factor):
    if isinstance(rate, Lowered):
        return Lowered(rate.rate, rate.factor * factor)
    return Lowered(rate, factor)


def _optimizer(model):
    """The optimizer whose rate it is."""
    found = model.optimizer
    return (
        found.inner_optimizer if isinstance(found, keras.optimizers.LossScaleOptimizer) else found
    )


def _rate(model):
    return _from_config(_optimizer(model).get_config()["learning_rate"])


def _at(rate, step):
    """A number or a schedule at a step."""
    return rate(step) if callable(rate) else rate


def _to_config(rate):
    """A number, or the dict that describes a schedule."""
    return keras.saving.serialize_keras_object(rate) if callable(rate) else rate


def _from_config(rate):
    """A number, or the schedule that a dict describes."""
    return keras.saving.deserialize_keras_object(rate) if isinstance(rate, dict) else float(rate)
