"""Learning rates that are lowered while a model trains."""

import keras


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
        return self.factor * (self.rate(step) if callable(self.rate) else self.rate)

    def get_config(self):
        rate = keras.saving.serialize_keras_object(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "factor": self.factor}

    @classmethod
    def from_config(cls, config):
        return cls(_from_config(config["rate"]), config["factor"])


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


def _from_config(rate):
    """A number, or the schedule that a dict describes."""
    return keras.saving.deserialize_keras_object(rate) if isinstance(rate, dict) else float(rate)
