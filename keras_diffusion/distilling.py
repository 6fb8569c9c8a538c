"""One distillation, from a finished run to the run folder of its student."""

import dataclasses
from dataclasses import dataclass

import keras

from keras_diffusion import building, course, distillation, fitting, pipeline
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import options
from keras_diffusion.sessions import Session

KEY = "distilled"  # of run.json, where `Asked` stands


@dataclass(frozen=True)
class Asked:
    """Everything that decides what a student becomes, besides its teacher, whose precision is the student's, and the data.

    Attributes:
        times: of the student's calls, falling from T.
        teacher_steps, guidance_scale, guidance_interval: as for `Distillation`.
        epochs, batch_size, learning_rate: of Adam; the rate rises from 0 over the first steps and falls to 0 as a cosine.
        seed: of every draw.
    """

    times: tuple
    teacher_steps: int = 3
    guidance_scale: float = 1.0
    guidance_interval: tuple | None = None
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 5e-4
    seed: int = 0


def to_json(asked):
    """Settings as a dict of JSON's types."""
    fields = dataclasses.asdict(asked)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def check_same(asked, before):
    """Whether a distillation that goes on is asked for what it began with.

    Args:
        asked: `Asked`.
        before: run.json.

    Raises:
        UserError: where it isn't, or that run isn't a distillation.
    """
    if not isinstance(before.get(KEY), dict):
        raise UserError("--resume: expected a run of distill.py, got one of fit.py; use fit.py")
    for name, now in to_json(asked).items():
        was = before[KEY].get(name)
        if was != now:
            raise UserError(f"--resume: {name} was {was} in this run and is {now} now")


def train(asked, teacher, data, run, *, record, command, earlier=None, checkpoints=None, say=print):
    """Trains a student, or goes on with it.

    Args:
        asked: `Asked`.
        teacher: `DiffusionModel` of a finished run.
        data: `data.ImageData`.
        run: `runs.Run` of the student, its folders made.
        record: run.json of the teacher.
        command: the command line that continues.
        earlier: run.json of the run that goes on; None at the beginning.
        checkpoints: dict of arguments of `callbacks.Checkpoints`.
        say: function of a line.

    Returns:
        Whether the run is finished.

    Raises:
        UserError: as `fitting.fit`; where the run that goes on has another teacher, the data aren't such images as it
            draws, or its guidance is out of range.
    """
    _check_data(teacher, data)
    keras.utils.set_random_seed(asked.seed)
    weights = specs.weights_sha256(teacher.sampling_network.get_weights())
    if earlier is None:
        run.drop_checkpoints()
    elif earlier[KEY].get("teacher") != weights:
        raise UserError("--resume: expected the teacher that the run began with, got another")
    steps = asked.epochs * pipeline.steps_per_epoch(len(data.x_train), asked.batch_size)
    model = fitting.last_model(run, say) or _begin(asked, teacher, steps)
    start = int(model.step.numpy())
    told = {
        **{name: record[name] for name in ("title", "parts", "settings") if name in record},
        "data": {**data.identity(), "class_names": list(data.class_names)},
        "command": command,
        "sessions": [fitting.session_record(start)],
        **fitting.describe(model.network, model),
        KEY: {**to_json(asked), "teacher": weights},
    }
    fitting.begin(run, told, earlier or {}, start)
    session = Session(
        model,
        data,
        run,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        seed=asked.seed,
        learning_rate_at=lambda step: course.rising_and_falling(asked.learning_rate, step, steps),
        width=record["settings"].get("width", 0),
        every=checkpoints or {},
    )
    return fitting.finish(session, command=command, say=say, result=lambda model: model.student())


def _check_data(teacher, data):
    if data.image_shape != teacher.image_shape:
        raise UserError(
            f"--data: expected images {list(teacher.image_shape)}, which the teacher draws, got {list(data.image_shape)}"
        )
    if teacher.num_classes and data.num_classes > teacher.num_classes:
        raise UserError(
            f"--data: expected the {teacher.num_classes} classes of the teacher, got {data.num_classes}"
        )


def _begin(asked, teacher, steps):
    """The `Distillation` before its first step, compiled."""
    try:
        model = distillation.distill(
            teacher,
            spacing=asked.times,
            teacher_steps=asked.teacher_steps,
            guidance_scale=asked.guidance_scale,
            guidance_interval=asked.guidance_interval,
            seed=asked.seed,
        )
    except ValueError as error:
        raise UserError(options.said_of_options(error)) from None
    model.compile(optimizer=building.adam(building.cosine_rate(asked.learning_rate, steps)))
    return model
