"""What a linear denoiser knows is given to a network; the rest is what it has to learn."""

import math

import keras
import tensorflow as tf

from keras_diffusion import predictions, schedules
from keras_diffusion.errors import is_number
from keras_diffusion.nn.tables import look_up


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Precondition(keras.layers.Layer):
    """xt [N, H, W, C] and t/T [N] to the three parts of a preconditioned output, float32 whatever the policy.

    For pixels with mean mu and variance s², the best linear guess from xt = alpha*x0 + sigma*eps is, with
    u = (xt - alpha*mu)/sqrt(var) and var = alpha²s² + sigma², x0 = mu + (alpha s²/sqrt(var))*u, its error being of
    standard deviation s*sigma/sqrt(var). For a prediction out = m*x0 + n*eps this gives `out = guess + scale*F`:

        guess = m*mu + (m*alpha*s² + n*sigma)/sqrt(var) * u
        scale = s*(m*sigma - n*alpha)/sqrt(var)

    where F, what is left, is of mean 0 and variance 1 at every t, as u is.

    Args:
        schedule: `Schedule`, or its `to_config()`.
        prediction: "eps", "x0", "v" or "flow".
        mean, std: mu and s of the pixels in [0, 1] that are trained on.

    Returns:
        (u [N, H, W, C], guess [N, H, W, C], scale [N, 1, 1, 1]).

    Reference: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 5, for
        data with a mean and for any schedule and prediction.
    """

    def __init__(self, schedule, *, prediction, mean, std, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.schedule = schedules.from_config(schedule) if isinstance(schedule, dict) else schedule
        self.prediction, self.mean, self.std = prediction, mean, std
        predictions.row(prediction, 1.0, 0.0)
        if not (is_number(mean) and math.isfinite(mean)):
            raise ValueError(f"mean: expected a number, got {mean!r}")
        if not (is_number(std) and 0 < std < math.inf):
            raise ValueError(f"std: expected a positive number, got {std!r}")

    def call(self, x, t):
        t = tf.clip_by_value(t, 0.0, 1.0) * self.schedule.num_train_steps
        alpha, sigma = (look_up(table, t) for table in (self.schedule.alpha, self.schedule.sigma))
        mu, s = self.mean, self.std
        m, n = predictions.row(self.prediction, alpha, sigma)
        root = tf.sqrt(alpha**2 * s**2 + sigma**2)
        u = (x - alpha * mu) / root
        guess = m * mu + (m * alpha * s**2 + n * sigma) / root * u
        return u, guess, s * (m * sigma - n * alpha) / root

    def check_fits(self, schedule, prediction, data_std):
        """Checks that a model is of the schedule, prediction and deviation that this layer is for.

        Raises:
            ValueError: where it is not.
        """
        std = ("data_std", self.std, self.std if data_std is None else data_std)
        check_fits("preconditioned", self, schedule, prediction, std)

    def compute_output_shape(self, x_shape, t_shape):
        return x_shape, x_shape, (x_shape[0], 1, 1, 1)

    def get_config(self):
        return {
            **super().get_config(),
            "schedule": self.schedule.to_config(),
            "prediction": self.prediction,
            "mean": self.mean,
            "std": self.std,
        }


def precondition(network, schedule, *, prediction, mean, std, name=None):
    """Puts the best linear guess beside a network, so that it learns only what that leaves: `Precondition`.

    Without this a network has to copy the noise of xt into its output in the amount that t asks for, and to stop
    doing so at T, where sampling starts. Call it under the dtype policy that the network was built with.

    Args:
        network: functional Keras model on a dict of `x`, `t` and, with classes, `label`, as `unet` builds it.
        schedule, prediction: those of the `DiffusionModel` that will have it.
        mean, std: of the pixels in [0, 1] that will be trained on; MNIST: 0.1307 and 0.3081.
        name: name of the model; None: the network's, and `preconditioned_` before it.

    Returns:
        `keras.Model` with the same inputs and the same kind of output.

    Raises:
        ValueError: where the network isn't told t, or an argument is out of its range.

    Example:
        >>> schedule = cosine_schedule(300)
        >>> network = precondition(
        ...     modulated_unet(width=32, num_classes=10), schedule, prediction="v", mean=0.1307, std=0.3081)
        >>> model = DiffusionModel(network, schedule, prediction="v", data_std=0.3081)
    """
    found = getattr(network, "input", None)
    given = found if isinstance(found, dict) else {}
    names = set(given)
    if not {"x", "t"} <= names:
        raise ValueError(
            f"network: expected a functional Keras model on a dict that has x and t, got {sorted(names) or network}"
        )
    inputs = {
        key: keras.Input(value.shape[1:], name=key, dtype=value.dtype)
        for key, value in given.items()
    }
    layer = Precondition(schedule, prediction=prediction, mean=mean, std=std, name="precondition")
    u, guess, scale = layer(inputs["x"], inputs["t"])
    left = network({**inputs, "x": u})
    out = keras.layers.Multiply(dtype="float32", name="scaled")([scale, left])
    out = keras.layers.Add(dtype="float32", name="preconditioned_out")([guess, out])
    return keras.Model(inputs, out, name=name or f"preconditioned_{network.name}")


def check_fits(what, layer, schedule, prediction, *more):
    """Checks that a model is of the schedule and the prediction that a layer of its network is for.

    Args:
        what: the network is: a participle.
        layer: with `schedule` and `prediction`.
        schedule, prediction: the model's.
        more: tuples of a further name, the layer's value and the model's.

    Raises:
        ValueError: where it is not.
    """
    pairs = (
        ("schedule", layer.schedule.to_config(), schedule.to_config()),
        ("prediction", layer.prediction, prediction),
        *more,
    )
    for name, expected, got in pairs:
        if got != expected:
            raise ValueError(
                f"{name}: expected {_brief(expected)}, which the network is {what} for, got {_brief(got)}"
            )


def _brief(value):
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
