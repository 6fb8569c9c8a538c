"""What a run was asked to do: the recipe's values with the user's in their place."""

import dataclasses
import os
import shlex
from dataclasses import dataclass
from typing import Any

from keras_diffusion import course
from keras_diffusion.errors import UserError, shown

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
XLA = ("auto", "on", "off")
EMA_DECAY = {"default": 0.999, "course": None, "best": 0.999}
_CHOICES = {"recipe": tuple(EMA_DECAY), "xla": XLA, "precision": PRECISIONS}
_LOWEST = {"width": 1, "epochs": 0, "batch_size": 1, "limit": 1, "seed": 0}
COPY = "copy"  # a refiner that begins as its network, in place of a width
MOST = {"width": 1024, "epochs": 10**6, "batch_size": 2**20, "seed": 2**32 - 1}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's outcome, as it stands in run.json under "settings".

    Attributes:
        part, edition: of the course.
        recipe: "course": to the letter. "default": the same with averaged weights for sampling. "best": `course.best`.
        width, epochs, batch_size: D, number of epochs, images in a step.
        data: name or file, as given.
        limit: only so many training images; None for all.
        seed: of the initial weights and of every draw.
        xla, precision: how the step is compiled and computed.
    """

    part: str
    edition: str = "ddpm"
    recipe: str = "default"
    width: int = 64
    epochs: int = 0
    batch_size: int = 128
    data: str = "mnist"
    limit: int | None = None
    seed: int = 0
    xla: str = "auto"
    precision: str = "float32"

    @property
    def course(self):
        """The row of the course's table."""
        row = course.recipe_of(self.part, edition=self.edition)
        return course.best(row) if self.recipe == "best" else row

    @property
    def ema_decay(self):
        """Decay of the averaged weights, or None."""
        return EMA_DECAY[self.recipe]

    @property
    def folder(self):
        """Default folder of the run."""
        flow = "" if self.edition == "ddpm" else f"-{self.edition}"
        return f"runs/part-{self.course.parts[0]}{flow}"

    def command(self, folder):
        """The command line that makes a run with these settings in a folder."""
        recipe, words = self.course, ["python", "scripts/fit.py", "--part", self.part]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != getattr(recipe, field.name, field.default):
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        if os.path.normpath(folder) != self.folder:
            words += ["--out", str(folder)]
        return shlex.join(words)


def resolve(given, before=None):
    """Settings from what the user gave, an earlier run's settings, and the recipe, in this order.

    Args:
        given: dict; None where the user gave nothing.
        before: the settings of the run that goes on, as a dict, or None.

    Raises:
        UserError: where a part or edition is unknown, or a value differs from the earlier run's.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if before is not None:
        _check_fields(before)
        given = {**before, **_checked_against(given, before)}
    recipe = course.recipe_of(given["part"], edition=given.get("edition", "ddpm"))
    for name in ("epochs", "batch_size"):
        if not recipe.epochs and before is None and name in given:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: part {given['part']} trains nothing; leave it out")
    chosen = {name: getattr(recipe, name) for name in ("width", "epochs", "batch_size")}
    if given.get("recipe") == "best":
        course.best(recipe)
    # A part is known by the part that trains it: 2.6 and 2.5 are one run.
    return Settings(**{**chosen, **given, "part": recipe.parts[0]})


def _check_fields(before):
    """Whether an earlier run's settings are settings: the fields of `Settings`, each of its type and in its range."""
    for field in dataclasses.fields(Settings):
        value = before.get(field.name)
        kind: Any = field.type
        good = isinstance(value, kind) and not isinstance(value, bool)
        if good and field.name in _CHOICES:
            good = value in _CHOICES[field.name]
        if good and value is not None and field.name in _LOWEST:
            good = _LOWEST[field.name] <= value <= MOST.get(field.name, value)
        if not good:
            got = shown(value) if field.name in before else "none"
            raise UserError(
                f"run.json: expected a setting {field.name!r} that fit.py takes, got {got}"
            )
    unknown = set(before) - {field.name for field in dataclasses.fields(Settings)}
    if unknown:
        raise UserError(f"run.json: expected no other settings, got {sorted(unknown)}")


def _checked_against(given, before):
    recipe = course.recipe_of(
        given.get("part", before["part"]), edition=given.get("edition", before["edition"])
    )
    given = {**given, "part": recipe.parts[0]}
    for name, value in given.items():
        if name == "epochs" and value > before[name] and _may_be_longer(recipe, before):
            continue
        if before[name] != value:
            option = name.replace("_", "-")
            raise UserError(
                f"--resume: --{option} was {before[name]} in this run and is {value} now; give the old value or leave it out"
            )
    return given


def _may_be_longer(recipe, before):
    """Whether more epochs go on with a run, and don't make it another one.

    Raises:
        UserError: where the rate depends on how many there are.
    """
    if recipe.has_constant_rate and before["recipe"] != "best":
        return True
    raise UserError(
        f"--resume: --epochs was {before['epochs']} in this run, and its learning rate falls over all of them: a longer run is another one; give the old value, or train anew with --force"
    )


def to_json(settings):
    """Settings as a dict."""
    return dataclasses.asdict(settings)


def from_json(fields):
    """Settings of a dict that `to_json` made.

    Raises:
        UserError: where a field is missing, unknown or of another type, or the part doesn't exist.
    """
    _check_fields(fields)
    settings = Settings(**fields)
    settings.course  # noqa: B018  (a part or a recipe that doesn't exist is an error)
    return settings
