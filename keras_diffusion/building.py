"""The network and the model that a recipe of the course, or our own, describes."""

import keras

from keras_diffusion import course, nn, schedules
from keras_diffusion.errors import UserError
from keras_diffusion.training import DiffusionModel


def network(recipe, data, *, width):
    """A recipe's network, under the dtype policy that holds.

    Args:
        recipe: `course.Recipe`.
        data: `data.ImageData`: its shape and classes; its mean and deviation where the network is preconditioned.
        width: D.

    Returns:
        Functional `keras.Model` on a dict of `x`, and where it has them `t` and `label`.

    Raises:
        UserError: where the network would be preconditioned for images without a contrast.
    """
    sizes = {
        "width": width,
        "num_classes": data.num_classes if recipe.num_classes else None,
        "image_shape": data.image_shape,
    }
    if recipe.conditioning == course.MODULATE:
        made = nn.modulated_unet(**sizes)
    else:
        made = nn.unet(conditioning=recipe.conditioning, **sizes)
    if not recipe.preconditioned:
        return made
    mean, std = data.moments()
    if std < 1e-6:
        raise UserError(
            f"--recipe best: expected images with a contrast, got {data.name} with all pixels alike"
        )
    schedule = schedules.from_config(recipe.schedule)
    return nn.precondition(made, schedule, prediction=recipe.prediction, mean=mean, std=std)


def model(recipe, data, *, width, ema_decay, seed, steps_per_epoch, epochs, jit_compile="auto"):
    """A recipe's model, compiled with its optimizer.

    Args:
        recipe, data, width: as in `network`.
        ema_decay, seed: of `DiffusionModel`.
        steps_per_epoch, epochs: how long it will train, which the learning rate depends on.
        jit_compile: as Keras's `compile` takes it.

    Returns:
        `DiffusionModel`.
    """
    made = uncompiled(recipe, data, width=width, ema_decay=ema_decay, seed=seed)
    rate = _learning_rate(recipe, steps_per_epoch, epochs)
    made.compile(optimizer=adam(rate), jit_compile=jit_compile)
    return made


def uncompiled(recipe, data, *, width, refiner=None, **options):
    """A recipe's model, without an optimizer.

    Args:
        recipe, data, width: as in `network`.
        refiner: dict of arguments of `nn.with_refiner`, `width` and `below`; None: without one.
        options: arguments of `DiffusionModel`, in place of the recipe's too.

    Returns:
        `DiffusionModel`.
    """
    made = network(recipe, data, width=width)
    weighed = recipe.preconditioned and recipe.min_snr is None
    said = {
        "schedule": schedules.from_config(recipe.schedule),
        "prediction": recipe.prediction,
        "label_dropout": recipe.label_dropout,
        "min_snr": recipe.min_snr,
        "data_std": made.get_layer("precondition").std if weighed else None,
        "stratified": recipe.stratified,
    }
    said |= options
    if refiner is not None:
        made = nn.with_refiner(made, said["schedule"], prediction=said["prediction"], **refiner)
    return DiffusionModel(made, **said)


def adam(rate):
    """PyTorch's Adam: its epsilon is not Keras's."""
    return keras.optimizers.Adam(rate, epsilon=1e-8)


def cosine_rate(rate, steps):
    """What `course.rising_and_falling` says, as Keras has it."""
    warmup, fall = course.rise_and_fall(steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, fall, warmup_target=rate, warmup_steps=warmup
    )


def _learning_rate(recipe, steps_per_epoch, epochs):
    """What `Recipe.learning_rate_at` says, as Keras has it."""
    rate = recipe.learning_rate
    if recipe.cosine:
        return cosine_rate(rate, epochs * steps_per_epoch)
    if recipe.decays:
        return keras.optimizers.schedules.ExponentialDecay(
            rate, steps_per_epoch, 0.1 ** (1 / epochs), staircase=True
        )
    return rate
