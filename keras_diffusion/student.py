"""What a distillation was asked for, checked before TensorFlow is loaded."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from keras_diffusion import runs, schedules, settings
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import judge
from keras_diffusion.sampling import onnx_classifier, options, samplers
from keras_diffusion.sampling.times import few_times


@dataclass(frozen=True)
class Asked:
    """Everything that decides what a student becomes, besides its teacher, whose precision is the student's, and the data.

    Attributes:
        times: of the student's calls, falling from T.
        teacher_steps, guidance, guidance_interval: as for `Distillation`.
        match: files of classifiers by whose features the student is matched with real images; it has no teacher then, but what it
            begins as.
        match_last: further such files, of which the means of the last block alone are compared.
        thinned: how many thinned networks of each of these are looked at in its place, other ones for each seed; 0: the whole one.
        pool, through: as for `Matching`.
        emphasis: by how much the means of a classifier's last block count more than its other statistics (`Matching`'s weights).
        refine: width of the refiner that is trained alone (`Refining`), or `settings.COPY`; None: all is.
        optimizer: of OPTIMIZERS, where it is matched; a teacher's student has Adam.
        epochs, batch_size, rate: the optimizer's rate rises from 0 over the first steps and falls to 0 as a cosine. None, with
            `match` alone: a refiner's is 0.003, a copy's 0.001, otherwise Muon's goes by how far there still is to go (`rates.Nearing`), Adam's is 2e-5.
        seed: of every draw.
        data, limit: name or file, and how many of its training images.
    """

    times: tuple
    teacher_steps: int = 3
    guidance: float = 1.0
    guidance_interval: tuple | None = None
    match: tuple | None = None
    match_last: tuple = ()
    thinned: int = 0
    pool: int | None = None
    through: int | None = None
    emphasis: float = 1.0
    refine: int | str | None = None
    optimizer: str = "muon"
    epochs: int = 5
    batch_size: int = 128
    rate: float | None = 5e-4
    seed: int = 0
    data: str = "mnist"
    limit: int | None = None

    def to_json(self):
        """As a dict of JSON's types; without what has no part in it."""
        unused = _OF_A_TEACHER if self.match else ("match", *_OF_MATCHING)
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in unused}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


_OF_A_TEACHER = ("teacher_steps", "guidance", "guidance_interval")
_OF_MATCHING = ("match_last", "thinned", "pool", "through", "emphasis", "refine", "optimizer")
_MATCHING = {"epochs": 1, "batch_size": 100, "rate": None}  # in place of the defaults above
OPTIMIZERS = ("adam", "muon")  # of matching
VERSION = 4  # of what a checkpoint of matching has in it


def resolve(given, record, before=None):
    """What is asked: what the user gave, an earlier run's, the teacher's data, and the defaults, in this order.

    Args:
        given: dict; None where the user gave nothing. `steps` and `spacing` stand in place of `times`.
        record: run.json of the teacher.
        before: run.json of the student that goes on, or None.

    Raises:
        UserError: where a value is out of range or differs from the earlier run's, or that is no student's.
    """
    given = {name: value for name, value in given.items() if value is not None}
    steps, spacing = given.pop("steps", None), given.pop("spacing", None)
    if before is None:
        _check_matching(given)
        trained = settings.from_json(record["settings"])
        usual = {"data": trained.data, "limit": None if "data" in given else trained.limit}
        given = {**usual, **(_MATCHING if "match" in given else {}), **given}
        if "match" in given and steps is None and spacing is None:
            spacing = runs.learned_times(record)
    timed = before is None or steps is not None or spacing is not None
    try:
        schedule = schedules.from_config(record["schedule"])
        if timed:
            times = few_times(schedule, steps, spacing="uniform" if spacing is None else spacing)
            given["times"] = tuple(map(float, times))
        if before is not None:
            given = _earlier(given, before)
        asked = Asked(**given)
        way = {"sampler": "ddim", "spacing": list(asked.times), "guidance_scale": asked.guidance}
        way["guidance_interval"] = asked.guidance_interval
        samplers.as_defaults(way, schedule, record["prediction"])
    except (KeyError, TypeError):
        raise UserError("run.json: expected the schedule of a run that draws, got none") from None
    except ValueError as error:
        raise UserError(options.said_of_options(error)) from None
    return asked


def _check_matching(given):
    """Whether what is asked with a teacher is asked without `match`, and what is asked with `match` is with it."""
    names, word = (_OF_A_TEACHER, "with") if "match" in given else (_OF_MATCHING, "without")
    for name in names:
        if name in given:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: expected none {word} --match, got {_said(given[name])}")
    if "thinned" in given and "match_last" not in given:
        raise UserError(f"--thinned: expected none without --match-last, got {given['thinned']}")
    if "refine" in given and "through" in given:
        raise UserError(
            f"--through: expected none with --refine, whose gradient goes through the last call alone, got {given['through']}"
        )


def _earlier(given, before):
    """The values of the run that goes on."""
    was = before.get(runs.DISTILLED)
    if not isinstance(was, dict):
        raise UserError("--resume: expected a student's run, got another; use fit.py")
    if was.get("match") and was.get("version") != VERSION:
        raise UserError(
            "--resume: expected a matching of this version, got one of an earlier version; --force starts over"
        )
    for name, now in given.items():
        plain = list(now) if isinstance(now, tuple) else now
        if was.get(name) != plain:
            option = "spacing" if name == "times" else name.replace("_", "-")
            raise UserError(
                f"--resume: --{option} was {_said(was.get(name))} in this run and is {_said(plain)} now"
            )
    names = [field.name for field in dataclasses.fields(Asked) if field.name in was]
    kept = {name: was[name] for name in names}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


def _said(value):
    """A value as on a command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "not given"
    return str(value)


def told_of_times(asked, record):
    """A line where a student is matched at other times than those that it has learned to draw at; None otherwise.

    Args:
        asked: `Asked`.
        record: run.json of what it begins as.
    """
    learned = runs.learned_times(record) if asked.match else None
    if learned is None:
        return None
    if len(learned) == len(asked.times) and np.allclose(learned, asked.times, rtol=1e-5):
        return None
    was, now = (",".join(f"{t:g}" for t in times) for times in (learned, asked.times))
    return f"RUN has learned to draw at {was}, which are its times without --steps and --spacing: at {now} it may begin far worse"


def check_readers(asked, data):
    """Whether the classifiers that a student is matched by read such images, and none of them is the judge's own.

    Returns:
        A line that says how well each reads.

    Raises:
        UserError: where one does not, or is, or is several, or there is no such file.
    """
    told = []
    judges = {onnx_classifier.Classifier(path).sha256 for path in judge.SHIPPED}
    options = [(path, "--match") for path in asked.match]
    options += [(path, "--match-last") for path in asked.match_last]
    for path, option in options:
        found = onnx_classifier.single(
            path, image_shape=data.image_shape, class_names=data.class_names, option=option
        )
        if found.sha256 in judges:
            raise UserError(
                f"{option}: expected another classifier than evaluate.py's judge, got {path}"
            )
        part = "; its last block alone" if option == "--match-last" else ""
        part += f", of {asked.thinned} thinned networks" if part and asked.thinned else ""
        reads = f"{found.says['test_accuracy']:.2%} of its test images read right"
        told.append(f"{path} ({reads}{part})")
    return f"matched by {', '.join(told)}"
