"""One distillation, from a finished run to the run folder of its student."""

import dataclasses

import keras

from keras_diffusion import (
    building,
    course,
    distillation,
    few_steps,
    fitting,
    matching,
    pipeline,
    rates,
    refining,
    runs,
    settings,
    student,
    text,
)
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import classifier
from keras_diffusion.nn.refining import has_refiner, width_of
from keras_diffusion.runs import DISTILLED
from keras_diffusion.sampling import options
from keras_diffusion.sessions import Session

_ADAM = 2e-5  # Adam's rate where it matches, unless another is asked for
_REFINER_RATE, _COPY_RATE = 3e-3, 1e-3  # of a refiner, likewise


def train(
    asked,
    teacher,
    data,
    run,
    *,
    record,
    command,
    earlier=None,
    checkpoints=None,
    recover=0,
    say=print,
):
    """Trains a student, or goes on with it. Nothing of an earlier run there is touched before all is in order.

    Args:
        asked: `student.Asked`.
        teacher: `DiffusionModel` of a finished run.
        data: `data.ImageData`.
        run: `runs.Run` of the student, its folders made.
        record: run.json of the teacher.
        command: the command line that continues.
        earlier: run.json of the run that goes on; None at the beginning.
        checkpoints: dict of arguments of `callbacks.Checkpoints`.
        recover: as for `sessions.Session`.
        say: function of a line.

    Returns:
        Whether the run is finished.

    Raises:
        UserError: as `fitting.fit`; where the run that goes on has another teacher, or the data aren't such images as it
            draws.
    """
    _check_data(asked, teacher, data)
    # What is new, readers and a refiner, computes as the teacher does.
    keras.config.set_dtype_policy(settings.from_json(record["settings"]).precision)
    weights = specs.weights_sha256(teacher.sampling_network.get_weights())
    if earlier is not None and earlier[DISTILLED].get("teacher") != weights:
        raise UserError("--resume: expected the teacher that the run began with, got another")
    steps = asked.epochs * pipeline.steps_per_epoch(len(data.x_train), asked.batch_size)
    model = runs.last_model(run, say) if earlier is not None else None
    if model is None:
        model = _made(asked, teacher, data)
        asked = _settled(asked, model, say)
        _compile(model, asked, steps)
    if earlier is None:
        run.clear()
    start = int(model.step.numpy())
    told = {
        **{name: record[name] for name in ("title", "parts") if name in record},
        "settings": _settings(asked, data, record),
        "data": {**data.identity(), "class_names": list(data.class_names)},
        "command": command,
        "sessions": [fitting.session_record(start)],
        **fitting.describe(few_steps.sampling_copy(model), model),
        DISTILLED: {
            **asked.to_json(),
            "teacher": weights,
            "version": student.VERSION,
            **_told_of_refiner(model.network),
        },
    }
    fitting.begin(run, told, earlier or {}, start)
    session = _Session(
        model,
        data,
        run,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        seed=asked.seed,
        learning_rate_at=lambda step: course.rising_and_falling(
            _rate(asked, session.model), step, steps
        ),
        width=None,  # its teacher's
        every=checkpoints or {},
        recover=recover,
    )
    return fitting.finish(session, command=command, say=say, result=lambda model: model.student())


def _settled(asked, model, say):
    """What is asked, with what was left open as the model has it."""
    if not asked.match:
        return asked
    asked = dataclasses.replace(asked, pool=asked.pool or model.pool, rate=_fixed_rate(asked))
    rate = asked.rate
    goes = f"{rate:g}" if rate else f"by the distance, {_rate(asked, model):.2g} now"
    say(
        f"distance of what RUN draws from real images: {model.distance():.2g} times their variance; rate: {goes}"
    )
    return asked


def _fixed_rate(asked):
    """The largest rate, or None, where it goes by the distance."""
    if asked.rate is None and asked.refine:
        return _COPY_RATE if asked.refine == settings.COPY else _REFINER_RATE
    return _ADAM if asked.rate is None and asked.optimizer == "adam" else asked.rate


def _rate(asked, model):
    """The rate of a student where what it rises and falls by is 1."""
    return float(rates.Nearing().at(model.distance())) if asked.rate is None else asked.rate


def _told_of_refiner(network):
    """What an exported file has to say of it, so that it can be made again."""
    if not has_refiner(network):
        return {}
    estimates = network.get_layer("estimates")
    return {"refiner": {"width": width_of(network), "below": estimates.below}}


def _settings(asked, data, record):
    """The teacher's settings, with the student's own where they differ."""
    own = {name: getattr(asked, name) for name in ("epochs", "batch_size", "seed", "data", "limit")}
    return settings.to_json(settings.from_json({**record["settings"], **own}))


def _check_data(asked, teacher, data):
    if data.image_shape != teacher.image_shape:
        raise UserError(
            f"--data: expected images {list(teacher.image_shape)}, which the teacher draws, got {list(data.image_shape)}"
        )
    if teacher.num_classes and data.num_classes > teacher.num_classes:
        raise UserError(
            f"--data: expected the {teacher.num_classes} classes of the teacher, got {data.num_classes}"
        )


def _made(asked, teacher, data):
    """The model that trains the student."""
    try:
        return _matching(asked, teacher, data) if asked.match else _distillation(asked, teacher)
    except ValueError as error:
        raise UserError(options.said_of_options(error, {"width": "refine"})) from None


def _compile(model, asked, steps):
    rate = building.cosine_rate(1.0 if asked.rate is None else asked.rate, steps)
    rate = rates.Nearing(rate) if asked.rate is None else rate
    made = {"adam": matching.adam, "muon": matching.muon}[asked.optimizer]
    model.compile(optimizer=made(rate) if asked.match else building.adam(rate))


def _distillation(asked, teacher):
    return distillation.distill(
        teacher,
        spacing=asked.times,
        teacher_steps=asked.teacher_steps,
        guidance_scale=asked.guidance,
        guidance_interval=asked.guidance_interval,
        seed=asked.seed,
    )


def _matching(asked, teacher, data):
    """A `Matching`, adapted to the data."""
    read, last = (
        [classifier.load(path) for path in paths] for paths in (asked.match, asked.match_last)
    )
    if asked.thinned:
        several = [model for model in last for _ in range(asked.thinned)]
        last = [classifier.thinned(model, [asked.seed, k]) for k, model in enumerate(several)]
    way = {"spacing": asked.times, "seed": asked.seed, "pool": asked.pool}
    way["weights"] = classifier.weights(len(read), asked.emphasis, last=len(last))
    if asked.refine:
        make, way["width"] = refining.refine, asked.refine
    else:
        make, way["through"] = matching.match, asked.through
    model = make(teacher, classifier.statistics(*read, last=last), **way)
    model.adapt(data.x_train, data.y_train, progress=True)
    return model


class _Session(Session):
    """A session of a student."""

    def watching(self, say):
        """Each epoch of a `Matching` has a pool of its own."""
        if not isinstance(self.model, matching.Matching):
            return []
        left = self.epochs - 1 - self.step // self.steps_per_epoch
        if left and self.model.pool_seconds:
            took = text.duration(self.model.pool_seconds)
            say(f"{left} more pools, one an epoch; that of the first took {took}")
        return [matching.NewPools(say)]
