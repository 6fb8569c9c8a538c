"""Trains a student that draws in a few calls of the network what its teacher, a finished run, draws in many, guidance included.

    python scripts/distill.py runs/part-2.5-best --steps 10 --guidance 1.5 --guidance-interval 0.35,0.7 --epochs 5

Writes a run folder, OUT/run.json, metrics.csv, model.keras, checkpoints/, which sample.py, evaluate.py and convert.py take. Ctrl-C
saves; --resume goes on.
"""

import os
import shlex
import sys

from keras_diffusion import cli, data, run_options, runs, settings
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.sampling.times import spaced_times


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="distill.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of the teacher: a finished run of 2.x")
    sampling_options.add_times(parser, "10")
    parser.add_argument(
        "--teacher-steps",
        type=cli.integer(1, 1000),
        default=3,
        metavar="K",
        help="of the teacher in one of the student's (3)",
    )
    sampling_options.add_guidance(parser, "1")
    parser.add_argument("--epochs", type=cli.integer(1, settings.MOST["epochs"]), default=5)
    parser.add_argument(
        "--batch-size", type=cli.integer(1, settings.MOST["batch_size"]), default=128, metavar="B"
    )
    parser.add_argument("--rate", type=cli.number(1e-8, 1), default=5e-4, help="of Adam (0.0005)")
    parser.add_argument("--data", type=cli.name, help="as for fit.py (what the run was trained on)")
    parser.add_argument("--limit", type=cli.integer(1), metavar="N", help="the first N images only")
    parser.add_argument("--seed", type=cli.integer(0, settings.MOST["seed"]), default=0)
    run_options.add(parser, "RUN-distilled")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    teacher, record = runs.finished(options.run)
    run = runs.Run(options.out or f"{os.path.normpath(options.run)}-distilled")
    if os.path.realpath(run.folder) == os.path.realpath(teacher.folder):
        raise UserError(f"--out: expected another folder than the teacher's, got {run.folder}")
    run_options.earlier(options, run)
    trained = settings.from_json(record["settings"])
    images = data.load(options.data or trained.data, notify=print)
    limit = options.limit or trained.limit
    images = images.limit(limit) if limit else images
    cli.need("tensorflow", "tqdm", "filelock", extra="train")
    run.create()
    with run.held():
        before = run_options.earlier(options, run)
        run_options.check_data(before, images)
        return train(options, teacher, record, images, run, before)


def train(options, teacher, record, images, run, before):
    """Trains, in a folder that is ours alone."""
    if options.resume and before is None:
        print(f"{run.folder} was stopped before its first step: starting over")
    cli.load_tensorflow()
    from keras_diffusion import distilling

    model = runs.load_sampler(teacher)
    try:
        asked = distilling.Asked(
            times=times_of(options, model.schedule),
            teacher_steps=options.teacher_steps,
            guidance_scale=1.0 if options.guidance is None else options.guidance,
            guidance_interval=options.guidance_interval,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.rate,
            seed=options.seed,
        )
    except ValueError as error:
        raise UserError(sampling_options.said_of_options(error)) from None
    if before is not None:
        distilling.check_same(asked, before)
    elif options.force and run.exists():
        run.clear()
    words = [word for word in sys.argv if word not in ("--force", "--resume")]
    command = shlex.join(["python", *words, "--resume"])
    finished = distilling.train(
        asked,
        model,
        images,
        run,
        record=record,
        command=command,
        earlier=before,
        checkpoints=run_options.checkpoints(options),
    )
    if not finished:
        return cli.INTERRUPTED
    print(f"run: {run.folder}")
    return 0


def times_of(options, schedule):
    """The times of the student's calls: 10, spread evenly, unless told otherwise."""
    named = options.spacing is None or isinstance(options.spacing, str)
    steps = 10 if options.steps is None and named else options.steps
    spacing = "uniform" if options.spacing is None else options.spacing
    return tuple(map(float, spaced_times(schedule, steps, spacing=spacing)[:-1]))


if __name__ == "__main__":
    cli.run(main)
