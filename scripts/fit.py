"""Trains a part of the course and draws every figure that it owes.

    python scripts/fit.py --part 2.5 --epochs 20

Parts: 1.1 1.2 1.2.1 1.2.2 1.2.3 2.1 2.2 2.3 2.4 2.5 2.6; parts that share a run share it (2.6 shows samples of 2.5's).
Writes OUT/run.json, metrics.csv, model.keras, checkpoints/, figures/. Ctrl-C saves; --resume goes on.
"""

import shlex
import sys

from keras_diffusion import cli, course, data, runs, settings
from keras_diffusion.errors import UserError

# What isn't a setting of the run: it may differ when the run goes on.
_OF_THIS_CALL = ("out", "resume", "force", "checkpoint_minutes", "checkpoint_steps")


def _count(name):
    return cli.integer(1, settings.MOST[name])


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="fit.py", description=__doc__)
    parser.add_argument("--part", required=True, choices=course.PARTS, metavar="PART")
    parser.add_argument("--edition", choices=tuple(course.RECIPES), help="of the course (ddpm)")
    parser.add_argument("--epochs", type=_count("epochs"), help="the recipe's")
    parser.add_argument(
        "--width", type=_count("width"), metavar="D", help="channels (the recipe's)"
    )
    parser.add_argument("--batch-size", type=_count("batch_size"), metavar="B", help="the recipe's")
    parser.add_argument(
        "--data", type=cli.name, help="mnist, fashion_mnist, mnist-5k or FILE.npz (mnist)"
    )
    parser.add_argument(
        "--limit", type=cli.integer(1), metavar="N", help="only the first N training images"
    )
    parser.add_argument(
        "--seed", type=cli.integer(0, settings.MOST["seed"]), metavar="S", help="of every draw (0)"
    )
    parser.add_argument("--out", type=cli.name, help="folder of the run (runs/part-...)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--force", action="store_true", help="replace a run that is there")
    parser.add_argument(
        "--checkpoint-minutes",
        type=cli.number(0),
        metavar="M",
        help="most time between two checkpoints (5)",
    )
    parser.add_argument(
        "--checkpoint-steps", type=cli.integer(1), metavar="K", help="one every K steps too"
    )
    parser.add_argument("--xla", choices=settings.XLA, help="auto: on a GPU only (auto)")
    parser.add_argument("--precision", choices=settings.PRECISIONS, help="(float32)")
    parser.add_argument(
        "--recipe",
        choices=tuple(settings.EMA_DECAY),
        help="course: to the letter; default: figures from averaged weights; best: our own",
    )
    return parser.parse_args(arguments)


def open_run(options):
    """The run folder and its settings, checked before anything is touched."""
    given = {name: value for name, value in vars(options).items() if name not in _OF_THIS_CALL}
    asked = settings.resolve(given)
    run = runs.Run(options.out or asked.folder)
    if options.resume and options.force:
        raise UserError("--resume and --force: expected one of them, got both")
    if options.resume and not run.was_begun():
        raise UserError(f"--resume: expected a run in {run.folder}, found none")
    if options.resume and run.exists():
        before = run.read()
        asked = settings.resolve(given, before["settings"])
        if before["status"] == "finished":
            raise UserError(
                f"--resume: the run in {run.folder} is finished; --force trains it anew"
            )
    elif run.exists() and not options.force:
        status = run.read()["status"]
        advice = (
            "--force replaces it"
            if status == "finished"
            else "--resume goes on, --force starts over"
        )
        state = "not finished, or still going on" if status == "running" else status
        raise UserError(f"the run in {run.folder} is {state}; {advice}")
    return asked, run


def check_data(options, run, images):
    """Whether a run that goes on has the data that it began with."""
    if not (options.resume and run.exists()):
        return
    before, now = run.read()["data"].get("sha256", ""), images.identity()["sha256"]
    if before != now:
        raise UserError(
            f"--resume: the data of this run was {before[:12]}..., now it is {now[:12]}..."
        )


def main():
    options = parse(sys.argv[1:])
    asked, run = open_run(options)
    images = data.load(asked.data, notify=print)
    images = images.limit(asked.limit) if asked.limit else images
    cli.need("tensorflow", "matplotlib", "tqdm", "filelock", extra="train")
    check_data(options, run, images)
    run.create()
    with run.held():
        asked, run = open_run(options)  # once more: meanwhile another process may have gone on
        check_data(options, run, images)
        return fit(options, asked, images, run)


def fit(options, asked, images, run):
    """Trains, in a folder that is ours alone."""
    resume = options.resume and run.exists()
    if options.resume and not resume:
        print(f"{run.folder} was stopped before its first step: starting over")
    cli.load_tensorflow()  # takes seconds: only when everything else is in order
    from keras_diffusion import fitting

    if options.force and run.exists():
        run.clear()
    words = [word for word in sys.argv if word not in ("--force", "--resume")]
    command = shlex.join(["python", *words, "--resume"])
    try:
        finished = fitting.fit(
            asked,
            images,
            run,
            command=command,
            resume=resume,
            checkpoints={"minutes": options.checkpoint_minutes, "steps": options.checkpoint_steps},
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to go on: {command}") from None
    if not finished:
        return cli.INTERRUPTED
    print(f"run:     {run.folder}\nfigures: {run.figures}")
    return 0


if __name__ == "__main__":
    cli.run(main)
