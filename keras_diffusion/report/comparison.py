"""Any two runs side by side: their curves in one picture, what differs, and what they drew from the same noise."""

import itertools

import numpy as np

from keras_diffusion import figures
from keras_diffusion.report import words
from keras_diffusion.report.cards import worth
from keras_diffusion.report.figure import figure
from keras_diffusion.report.sections import EDITIONS, SECTIONS

_MANY = 12  # of more runs, curves are drawn for those of one part only: they grow with the square
_ALONE = ("architecture", "noising", "loss")  # pictures that say nothing beside another run's


def comparison(runs, store):
    """What the template shows of any two runs.

    Args:
        runs: list of `found.FoundRun` that were trained.
        store: `pictures.Files` or `pictures.Inline`.

    Returns:
        A dict, or None where there are no two: `sides`, what is shown of each run; `pairs`, by "0,1", the curves of two runs;
        `first`, the two numbers of those that the page opens with. Curves are missing between parts where there are many runs.
    """
    if len(runs) < 2:
        return None
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(runs)), 2)
        if len(runs) <= _MANY or runs[a].asked.part == runs[b].asked.part
    ]
    curves = {f"{a},{b}": _pair(runs[a], runs[b], store=store, name=f"{a}-{b}") for a, b in pairs}
    sides = [_side(run, store) for run in runs]
    return {"sides": sides, "pairs": curves, "first": _first(runs, pairs)}


def _side(run, store):
    asked = run.asked
    facts = {
        "part": f"{asked.part}, {EDITIONS[asked.edition]}",
        "width D": asked.width,
        "epochs": asked.epochs,
        "batch": asked.batch_size,
        "images": words.images(run),
        "recipe": asked.recipe,
        "precision": asked.precision,
        "seed": asked.seed,
        "parameters": words.parameters(run),
        "training time": words.duration(run.seconds),
        "loss": words.loss(run.final_loss) + ("" if run.finished else f" ({words.progress(run)})"),
    }
    owed = {owed.name: owed for section in SECTIONS for owed in section.owes}
    last = [(run.find(name), owed[name]) for name in owed if name not in _ALONE]
    drawn = [
        figure(run, picture, owed=kind, store=store)
        for picture, kind in last
        if picture and picture.size
    ]
    title = f"{run.name}: {asked.part}, {words.label(run)}"
    return {"run": run.name, "title": title, "facts": facts, "figures": drawn}


def _pair(one, other, *, store, name):
    """Both loss curves in one picture, and what of the runs can be compared."""
    curves = figures.loss_curves([_curve(run) for run in (one, other)])
    targets = [_loss_of(run) for run in (one, other)]
    return {
        "src": store.put_bytes(curves, f"comparisons/{name}.svg"),
        "comparable": targets[0] == targets[1],
        "same_noise": one.recipe.parts == other.recipe.parts,
    }


def _loss_of(run):
    """What a run's loss is a loss of, and how it is weighed."""
    weights = [run.record.get(name) for name in ("min_snr", "data_std")]
    return run.recipe.schedule, run.recipe.prediction, weights


def _curve(run):
    return np.cumsum(run.batches), run.losses


def _first(runs, pairs):
    """The pair that the page opens with: both editions' class-conditioned runs where there are, the best of each."""

    def score(pair):
        one, other = (runs[k] for k in pair)
        return (
            bool(one.pictures and other.pictures), one.finished and other.finished,
            one.asked.part == other.asked.part, one.asked.part == "2.5",
            one.asked.edition != other.asked.edition, worth(one), worth(other),
        )  # fmt: skip

    return max(pairs, key=score)
