"""The page: everything in its place."""

import dataclasses
import json

import jinja2

from keras_diffusion.files import replacing_folder
from keras_diffusion.report import pictures, words
from keras_diffusion.report.cards import Cards, Missing
from keras_diffusion.report.comparison import comparison
from keras_diffusion.report.sections import EDITIONS, SECTIONS

MADE = "keras-diffusion-report.json"  # tells our folders from somebody else's, which may have an index.html too
ONLY = (MADE, "index.html", "figures", "comparisons")


def write(found, unreadable, *, out, runs_folder, author=None, single_file=False):
    """Writes the page.

    Args:
        found, unreadable: as `found.find` returns them.
        out: a folder, replaced whole by index.html and its pictures.
        runs_folder: where the runs are, for the commands that make what is missing.
        author: whose write-up it is.
        single_file: whether the pictures go into the page.

    Returns:
        The list of what is missing: `cards.Missing`.

    Raises:
        UserError: where `out` is somebody else's folder, or can't be written.
    """
    with replacing_folder(out, made=MADE, only=ONLY) as folder:
        store = pictures.Inline() if single_file else pictures.Files(folder)
        cards = Cards(found, unreadable, store=store, runs_folder=runs_folder)
        shown = sections(cards)
        missing = _joined(
            entry for section in shown for c in section["columns"] for entry in c.missing
        )
        trained = in_order([run for run in found if run.trained])
        html = _template().render(
            author=author,
            sections=shown,
            glance=[_row(run) for run in trained],
            comparison=comparison(trained, store),
            missing=missing,
            unreadable=unreadable,
            optional=optional(cards),
            digits=all(run.digits for run in found),
        )
        # Names of files need not be UTF-8; what isn't becomes a question mark.
        (folder / "index.html").write_bytes(html.encode("utf-8", "replace"))
        record = {
            "runs": [run.name for run in found],
            "unreadable": [name for name, _ in unreadable],
            "missing": [dataclasses.asdict(entry) for entry in missing],
        }
        (folder / MADE).write_text(json.dumps(record, indent=2) + "\n")
    return missing


def sections(cards):
    """The parts of the course in order, each with a column for each edition that there are runs of."""
    editions = [
        edition
        for edition in EDITIONS
        if edition == "ddpm" or any(run.asked.edition == edition for run in cards.found)
    ]
    return [
        {
            "part": section.part,
            "title": section.title,
            "columns": [cards.column(section, e) for e in editions if e in section.says],
        }
        for section in SECTIONS
        # One edition of the course alone asks for 1.2.3: it is shown where it was run.
        if section.part != "1.2.3" or cards.runs_of("1.2.3", "ddpm")
    ]


def optional(cards):
    """What one edition of the course alone asks for, and isn't there: list of `Missing`."""
    left = []
    if not cards.runs_of("1.2.3", "ddpm"):
        left.append(Missing("1.2.3", cards.command("1.2.3", "ddpm", 5)))
    if not any(run.asked.edition == "flow" for run in cards.found):
        for part in ("2.2", "2.5"):
            left.append(Missing(f"{part}, flow matching", cards.command(part, "flow", 10)))
    return left


def _template():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_diffusion.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _joined(entries):
    """Entries of the same command as one: parts that share a run miss it together."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.command, []).append(entry.what)
    return [Missing("; ".join(dict.fromkeys(whats)), command) for command, whats in found.items()]


def in_order(runs):
    """By edition, part, length and width."""
    parts, editions = [section.part for section in SECTIONS], list(EDITIONS)
    return sorted(
        runs,
        key=lambda run: (
            editions.index(run.asked.edition), parts.index(run.asked.part), run.asked.epochs,
            run.asked.width, run.name,
        ),
    )  # fmt: skip


def _row(run):
    """A row of the table at the top."""
    asked, recipe = run.asked, run.recipe
    return {
        "run": run.name,
        "part": asked.part,
        "edition": EDITIONS[asked.edition],
        "width": asked.width,
        "epochs": asked.epochs if run.finished else f"{run.epochs_done} of {asked.epochs}",
        "images": words.images(run),
        "loss": words.loss(run.final_loss),
        "staff": words.quoted(recipe.staff_loss) if recipe.staff_loss and run.digits else "",
        "students": words.quoted(*recipe.student_losses) if run.digits else "",
        "time": words.duration(run.seconds),
        "machine": words.machine(run),
        "rate": f"{run.images_per_second:,.0f}",
    }
