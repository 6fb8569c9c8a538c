"""What the page shows of each part: a card for each run that answers it, and what is missing."""

import pathlib
from dataclasses import dataclass, field

from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup

from keras_diffusion import course, settings
from keras_diffusion.report import plan, words
from keras_diffusion.report.figure import figure
from keras_diffusion.report.sections import ARCHITECTURE, EDITIONS


@dataclass(frozen=True)
class Missing:
    """What isn't there, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Card:
    """What one run shows of a part.

    Attributes:
        run: its name.
        label, texts, command: what it is, what was done, and how to do it again.
        status: where it isn't finished, how far it came.
        outcome: (what, value) of losses and time.
        figures: what the part owes.
        more: the same at other epochs.
        architecture: the network, where it was trained.
    """

    run: str
    label: str
    command: str
    status: str = ""
    texts: tuple = ()
    outcome: tuple = ()
    figures: tuple = ()
    more: tuple = ()
    architecture: dict | None = None


@dataclass(frozen=True)
class Column:
    """A part in one edition of the course.

    Attributes:
        edition: its name.
        says: what was done.
        formulas: MathML.
        cards: list of `Card`.
        missing: list of `Missing`.
        others: names of the runs of this part that have no card.
    """

    edition: str
    says: str
    formulas: tuple
    cards: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    others: list = field(default_factory=list)


class Cards:
    """Fills the parts from the runs that there are.

    Args:
        found, unreadable: as `found.find` returns them.
        store: `pictures.Files` or `pictures.Inline`.
        runs_folder: where the runs are.
    """

    def __init__(self, found, unreadable, *, store, runs_folder):
        self.found, self.store = found, store
        self.taken = {run.name for run in found} | {name for name, _ in unreadable}
        self.runs_folder = pathlib.Path(runs_folder)

    def runs_of(self, part, edition):
        """The runs that trained a part."""
        return [run for run in self.found if (run.asked.part, run.asked.edition) == (part, edition)]

    def column(self, section, edition):
        """What there is to show of a section in an edition: `Column`."""
        formulas = tuple(Markup(to_mathml(tex)) for tex in section.formulas.get(edition, ()))
        column = Column(EDITIONS[edition], section.says[edition], formulas)
        if section.trained_by is None:
            self._fill_with_any(column, section, edition)
        else:
            self._fill_with_runs(column, section, edition)
        return column

    def _fill_with_any(self, column, section, edition):
        """A part that trains nothing: its figure from whichever run drew it, one that trained before others."""
        (owed,) = section.owes
        runs = [run for run in self.found if run.asked.edition == edition]
        for run in sorted(runs, key=worth, reverse=True):
            picture = run.find(owed.name, part=section.part)
            if picture and picture.size:
                network = owed == ARCHITECTURE
                label = f"D = {run.asked.width}" if network else run.record["data"]["name"]
                shown = (figure(run, picture, owed=owed, store=self.store),)
                column.cards.append(Card(run.name, label, run.command, figures=shown))
                return
        brought_by = course.recipe_of(section.brought_by, edition=edition)
        if self.runs_of(section.brought_by, edition):  # which drew none, or whose picture is lost
            command = self.command(section.part, edition)
        else:
            command = self.command(section.brought_by, edition, brought_by.epochs)
        column.missing.append(Missing(f"{section.part}, {column.edition}", command))

    def _fill_with_runs(self, column, section, edition):
        """A part that was trained: a card for the best run of each length that the course names."""
        runs = self.runs_of(section.trained_by, edition)
        recipe = course.recipe_of(section.trained_by, edition=edition)
        shown = []
        for epochs in (*recipe.shorter, recipe.epochs):
            best = max((r for r in runs if r.asked.epochs == epochs), key=worth, default=None)
            if best:
                shown.append(best)
                continue
            what = f"{section.trained_by}, {column.edition}: a run of {epochs} epochs"
            command = self.command(section.trained_by, edition, epochs)
            column.missing.append(Missing(what, command))
        # Of another length than the course's is better than nothing.
        shown = shown or sorted(runs, key=worth)[-1:]
        for run in shown:
            column.cards.append(self._card(section, run))
            column.missing.extend(_missing(section, run))
        column.others.extend(run.name for run in runs if run not in shown)

    def _card(self, section, run):
        trains = section.part == section.trained_by
        names = {owed.name: owed for owed in section.owes}
        owed = [picture for each in section.owes for picture in owed_pictures(run, each)[0]]
        more = [
            picture
            for picture in run.pictures
            if picture.size and picture not in owed
            if picture.name in names and names[picture.name].epochs
        ]
        texts = [words.settings(run)] if trains else []
        if "samples" in names:
            texts.append(words.sampling(run))
        if not owed:
            texts.append("Nothing is drawn yet.")
        network = run.find("architecture") if trains else None

        def figures(some):
            return tuple(figure(run, p, owed=names[p.name], store=self.store) for p in some)

        return Card(
            run=run.name,
            label=words.label(run),
            command=run.command,
            status="" if run.finished else f"{run.record['status']}, {words.progress(run)}",
            texts=tuple(texts),
            outcome=tuple(words.outcome(run)) if trains else (),
            figures=figures(owed),
            more=figures(more),
            architecture=figure(run, network, owed=ARCHITECTURE, store=self.store)
            if network and network.size
            else None,
        )

    def command(self, part, edition, epochs=None):
        """The command that makes what is missing, with the data and the size of the runs that are there."""
        like = self.runs_of(course.recipe_of(part, edition=edition).parts[0], edition)
        like = like or [run for run in self.found if run.asked.edition == edition] or self.found
        best = max(like, key=worth, default=None)
        kept = ["width", "data", "limit", "precision", "recipe"]
        if best and best.asked.batch_size != best.recipe.batch_size and epochs:
            kept.append("batch_size")
        values = {name: getattr(best.asked, name) for name in kept} if best else {}
        ours = course.has_best(course.recipe_of(part, edition=edition))
        if values.get("recipe") == "best" and not ours:
            del values["recipe"]
        asked = settings.resolve({**values, "part": part, "edition": edition, "epochs": epochs})
        name = plan.free_name(plan.folder_name(asked), self.taken)
        return asked.command(self.runs_folder / name)


def worth(run):
    """Runs in the order in which one would rather show them: the last is the best."""
    return (
        run.trained, run.finished, run.digits, run.asked.epochs, run.record["data"]["train_count"],
        run.asked.width, run.asked.recipe != "course", run.name,
    )  # fmt: skip


def owed_pictures(run, owed):
    """The pictures of a kind that a run owes, in order, and words for those that it lacks."""
    last = run.asked.epochs
    drawn = {epoch for epoch in run.recipe.figure_epochs if epoch < last}
    epochs = sorted(drawn & set(owed.epochs) | {last}) if owed.epochs else [None]
    there, lacking = [], []
    for epoch in epochs:
        picture = run.find(owed.name, epoch)
        if picture and picture.size:
            there.append(picture)
            continue
        after = f" after epoch {epoch}" if epoch else ""
        state = "damaged" if picture and picture.path.exists() else "missing"
        lacking.append(f"{owed.name.replace('_', ' ')}{after} ({state})")
    return there, lacking


def _missing(section, run):
    """What a run lacks: its end, or pictures."""
    if not run.finished:
        state = run.record["status"]
        state = "still going on, or killed" if state == "running" else state
        what = f"{section.trained_by}: the end of the run {run.name} ({state})"
        return [Missing(what, f"{run.command} --resume")]
    lacking = [what for owed in section.owes for what in owed_pictures(run, owed)[1]]
    if not lacking:
        return []
    what = f"figures of {run.name}: {', '.join(lacking)}; they take a new training"
    return [Missing(what, f"{run.command} --force")]
