"""The runs that the course asks for, and which of them are there."""

import dataclasses
import os
from dataclasses import dataclass

from keras_diffusion import course, settings
from keras_diffusion.errors import UserError

EDITIONS = tuple(course.RECIPES)
# Small enough for 20 minutes on two cores, on digits that need no download.
QUICK = {"data": "mnist-5k", "width": 16, "batch_size": 64}


@dataclass(frozen=True)
class Wanted:
    """A run that the course asks for.

    Attributes:
        asked: `settings.Settings`.
        name: what its folder is called.
    """

    asked: settings.Settings
    name: str


def wanted(edition, **values):
    """The runs that train something: every part at each number of epochs that it names.

    Args:
        edition: of the course.
        **values: settings in place of the recipes'.

    Returns:
        A list of `Wanted` in the course's order, of a part the shorter runs first.
    """
    found = []
    for recipe in course.RECIPES[edition]:
        for epochs in (*recipe.shorter, recipe.epochs) if recipe.epochs else ():
            given = {**values, "part": recipe.parts[0], "edition": edition, "epochs": epochs}
            asked = settings.resolve(given)
            found.append(Wanted(asked, folder_name(asked)))
    return found


def folder_name(asked):
    """What the folder of a run with these settings is called: as by default, with its length where it isn't the recipe's."""
    other = f"-{asked.epochs}-epochs" if asked.epochs != asked.course.epochs else ""
    return os.path.basename(asked.folder) + other


def outstanding(asked_for, found):
    """Which runs are still to be made or finished.

    Args:
        asked_for: list of `Wanted`.
        found: list of `found.FoundRun`.

    Returns:
        A list of (wanted, whether there is such a run, unfinished, to go on with).

    Raises:
        UserError: where another run has the folder.
    """
    left = []
    for want in asked_for:
        same = [run for run in found if _alike(run.asked, want.asked)]
        if any(run.finished for run in same):
            continue
        if same:
            left.append((Wanted(want.asked, same[0].name), True))
            continue
        holder = next((run for run in found if run.name == want.name), None)
        if holder:
            raise UserError(
                f"expected no run in {holder.folder}, or one with the settings that are asked for now,"
                f" got one with {_difference(holder.asked, want.asked)}; move it away, or give --runs another folder"
            )
        left.append((want, False))
    return left


def _difference(one, other):
    """The first setting in which two differ, in words."""
    name = next(
        field.name
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    )
    return f"--{name.replace('_', '-')} {getattr(one, name)} in place of {getattr(other, name)}"


def _alike(one, other):
    """Whether settings are the same, the data's file perhaps by another path."""
    files = [os.path.realpath(asked.data) for asked in (one, other)]
    return dataclasses.replace(one, data="") == dataclasses.replace(other, data="") and (
        one.data == other.data or files[0] == files[1]
    )


def free_name(name, taken):
    """A name that isn't taken, like `name`."""
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}-{count}"
    return free
