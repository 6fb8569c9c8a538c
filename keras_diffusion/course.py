"""The parts of the course as a table. To add a part, add a row.

Source: UC Berkeley CS180/280A, project 5, part B; the flow-matching rows are its 2025 edition.
"""

import math
from dataclasses import dataclass, replace

from keras_diffusion import schedules
from keras_diffusion.errors import UserError

MODULATE = "modulate"  # the conditioning of `nn.modulated_unet`
SIGMAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Recipe:
    """One training run of the course, or a part that only shows something (`epochs` = 0).

    Attributes:
        parts: the parts of the course that this run answers; the first names its folder.
        title: what it is.
        conditioning: of `unet`, or MODULATE for the network `modulated_unet`.
        num_classes: of `unet`.
        schedule: configuration of the schedule.
        prediction: what the network predicts.
        width: D.
        epochs, batch_size, learning_rate: of Adam.
        decays: whether the rate is multiplied by 0.1^(1/epochs) after each epoch.
        cosine: whether it rises from 0 over the first steps and falls to 0 as a cosine instead.
        preconditioned: whether the network is put into `nn.precondition`, and its loss weighed to match (`data_std`).
        stratified, min_snr, label_dropout: of `DiffusionModel`.
        figures: names of functions in `illustrate`, drawn at `figure_epochs` and at the last epoch.
        final_figures: those that are drawn at the last epoch only.
        sampling: arguments of `DiffusionModel.sample` for the figures.
        staff_loss: the course staff's final loss, if it is known.
        student_losses: the lowest and the highest that most students' write-ups end at, if known.
        shorter: epochs of the shorter runs that the part owes beside the one of `epochs`.
    """

    parts: tuple
    title: str
    conditioning: str | None = None
    num_classes: int | None = None
    schedule: dict | None = None
    prediction: str = "eps"
    width: int = 64
    epochs: int = 0
    batch_size: int = 128
    learning_rate: float = 1e-3
    decays: bool = True
    cosine: bool = False
    preconditioned: bool = False
    stratified: bool = False
    min_snr: float | None = None
    label_dropout: float = 0.1
    figures: tuple = ()
    final_figures: tuple = ()
    figure_epochs: tuple = ()
    sampling: tuple = ()
    staff_loss: float | None = None
    student_losses: tuple = ()
    shorter: tuple = ()

    @property
    def has_constant_rate(self):
        """Whether a run of more epochs begins with the same steps as a shorter one."""
        return not self.cosine and not self.decays

    def learning_rate_at(self, step, *, steps_per_epoch, epochs):
        """The rate of training step `step`, counted from 0."""
        if self.cosine:
            return rising_and_falling(self.learning_rate, step, steps_per_epoch * epochs)
        if not self.decays:
            return self.learning_rate
        return self.learning_rate * 0.1 ** (math.floor(step / steps_per_epoch) / epochs)


def rise_and_fall(steps):
    """How many of a run's steps the rate rises in, and how many it falls in as a cosine."""
    warmup = max(1, min(200, steps // 10))
    return warmup, max(1, steps - warmup)


def rising_and_falling(rate, step, steps):
    """A rate that rises from 0 to `rate` and falls to 0 as a cosine, at a step, counted from 0, of `steps`."""
    warmup, fall = rise_and_fall(steps)
    if step < warmup:
        return rate * step / warmup
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / fall))


def has_best(recipe):
    """Whether there is a recipe of our own in place of it."""
    return recipe.prediction == "eps" and recipe.epochs > 0


def best(recipe):
    """Our own recipe in place of the course's: what differs, and what it is for.

    network `modulated_unet`: time and class are heard in every block;
    prediction v: an error of the output is a bounded error of the image at every t (Salimans & Ho 2022);
    cosine schedule: nothing of the image is left at T, where sampling starts (Nichol & Dhariwal 2021; Lin et al. 2023);
    preconditioning: the network learns what a linear denoiser leaves, weighed alike at every t (Karras et al. 2022);
    stratified times: a calmer loss (Kingma et al. 2021); a rate of 2e-3 that falls to 0.

    Raises:
        UserError: where the part has none.
    """
    if not has_best(recipe):
        parts = " or ".join(r.parts[0] for r in RECIPES["ddpm"] if has_best(r))
        raise UserError(
            f"--recipe best: expected part {parts} of --edition ddpm, got part {recipe.parts[0]}, {recipe.title}"
        )
    return replace(
        recipe,
        conditioning=MODULATE,
        schedule=schedules.cosine_schedule(300).to_config(),
        prediction="v",
        preconditioned=True,
        stratified=True,
        learning_rate=2e-3,
        cosine=True,
        staff_loss=None,  # of another loss
        student_losses=(),
    )


_DENOISER = Recipe(
    parts=(),
    title="",
    width=128,
    epochs=5,
    batch_size=256,
    learning_rate=1e-4,
    decays=False,
    prediction="x0",
    figures=("denoised",),
    figure_epochs=(1, 5),
)
_DDPM = Recipe(
    parts=(),
    title="",
    conditioning="add",
    schedule=schedules.linear_schedule(300).to_config(),
    epochs=20,
    figures=("one_step", "samples"),
    figure_epochs=(1, 5, 10, 15, 20),
    shorter=(5,),
    sampling=(("sampler", "ddpm"), ("variance", "beta_tilde"), ("num_steps", 300)),
)
_FLOW = replace(
    _DDPM,
    conditioning="multiply",
    schedule=schedules.flow_schedule(300).to_config(),
    prediction="flow",
    epochs=10,
    batch_size=64,
    learning_rate=1e-2,
    figure_epochs=(1, 5, 10),
    shorter=(),
    sampling=(("sampler", "euler"), ("num_steps", 50)),
)


def _time(base, **values):
    figures = ("architecture", "animation")
    return replace(base, parts=("2.2", "2.3"), final_figures=figures, **values)


def _class(base, **values):
    figures = ("architecture", "guidance", "animation")
    return replace(base, parts=("2.5", "2.6"), num_classes=10, final_figures=figures, **values)


def _shown(part, title, conditioning=None, num_classes=None, width=64):
    """A part that shows a network and trains nothing."""
    figures = ("architecture",)
    return Recipe((part,), title, conditioning, num_classes, width=width, final_figures=figures)


RECIPES = {
    "ddpm": (
        _shown("1.1", "unconditional UNet", width=128),
        Recipe(("1.2",), "the noising process", final_figures=("noising",)),
        replace(
            _DENOISER,
            parts=("1.2.1", "1.2.2"),
            title="one-step denoiser",
            schedule=schedules.denoiser_schedule(0.5).to_config(),
            final_figures=("architecture", "noising", "out_of_distribution"),
            staff_loss=0.0085,
            student_losses=(0.008, 0.009),
        ),
        replace(
            _DENOISER,
            parts=("1.2.3",),
            title="denoiser of pure noise",
            schedule=schedules.denoiser_schedule(1.0, alpha=0.0).to_config(),
        ),
        _shown("2.1", "time-conditioned UNet", "add"),
        _time(
            _DDPM, title="time-conditioned DDPM", staff_loss=0.029, student_losses=(0.026, 0.032)
        ),
        _shown("2.4", "class-conditioned UNet", "add", 10, width=128),
        _class(
            _DDPM,
            title="class-conditioned DDPM",
            width=128,
            staff_loss=0.030,
            student_losses=(0.025, 0.030),
        ),
    ),
    "flow": (
        _shown("2.1", "time-conditioned UNet", "multiply"),
        _time(_FLOW, title="time-conditioned rectified flow", staff_loss=0.085),
        _shown("2.4", "class-conditioned UNet", "multiply", 10),
        _class(
            _FLOW,
            title="class-conditioned rectified flow",
            staff_loss=0.083,
            student_losses=(0.093, 0.093),
        ),
    ),
}
PARTS = tuple(sorted({p for rows in RECIPES.values() for recipe in rows for p in recipe.parts}))


def recipe_of(part, *, edition="ddpm"):
    """The recipe that answers a part.

    Raises:
        UserError: where the edition doesn't have that part.
    """
    if edition not in RECIPES:
        raise UserError(f"--edition: expected one of {', '.join(RECIPES)}, got {edition!r}")
    parts = [part for recipe in RECIPES[edition] for part in recipe.parts]
    for recipe in RECIPES[edition]:
        if part in recipe.parts:
            return recipe
    raise UserError(
        f"--part: expected one of {', '.join(parts)} with --edition {edition}, got {part!r}"
    )
