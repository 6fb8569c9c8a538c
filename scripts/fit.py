"""Trains a part of the course and draws every figure that it owes.

    python scripts/fit.py --part 2.5 --epochs 20

Parts: 1.1 1.2 1.2.1 1.2.2 1.2.3 2.1 2.2 2.3 2.4 2.5 2.6; parts that share a run share it (2.6 shows samples of 2.5's).
Writes OUT/run.json, metrics.csv, model.keras, checkpoints/, figures/. Ctrl-C saves; --resume goes on.
"""

import sys

from keras_diffusion import cli, course, data, run_options, runs, settings, workers
from keras_diffusion.errors import UserError


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
    run_options.add(parser, "runs/part-...")
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
    given = {name: value for name, value in vars(options).items() if name not in run_options.NAMES}
    asked = settings.resolve(given)
    run = runs.Run(options.out or asked.folder)
    before = run_options.earlier(options, run)
    if before is not None:
        if runs.DISTILLED in before:
            raise UserError(
                f"--resume: expected a run of fit.py, got a student in {run.folder}; use distill.py"
            )
        asked = settings.resolve(given, before["settings"])
    if options.workers and not asked.course.epochs:
        raise UserError(f"--workers: expected a part that trains, got --part {options.part}")
    return asked, run, before


def main():
    options = parse(sys.argv[1:])
    worker = run_options.which_worker(options)
    asked, run, before = open_run(options)
    images = data.load(asked.data, notify=print)
    images = images.limit(asked.limit) if asked.limit else images
    cli.need("tensorflow", "matplotlib", "tqdm", "filelock", extra="train")
    run_options.check_data(before, images)
    with workers.folder(worker, run) as (own, watch):
        # Once more: meanwhile another process may have gone on.
        asked, run, before = open_run(options)
        run_options.check_data(before, images)
        if before is not None and asked.epochs > before["settings"]["epochs"]:
            print(
                f"{asked.epochs} epochs in place of {before['settings']['epochs']}: its rate is constant, so that it ends as if begun with them"
            )
        return fit(options, asked, images, own, watch)


def fit(options, asked, images, run, watch):
    """Trains, in a folder that is ours alone."""
    # Takes seconds: only when everything else is in order.
    cli.load_tensorflow(devices=options.devices, workers=watch is not None)
    from keras_diffusion import fitting, replicas

    strategy = replicas.strategy(options.devices, xla=asked.xla, workers=watch is not None)
    replicas.check_batches(strategy, len(images.x_train), asked.batch_size)
    tells = run_options.tells(watch)
    run_options.tell_what_stays(options, run, watch)
    with workers.together(strategy, run, watch), run_options.telling_how_to_go_on() as command:
        resume = run_options.goes_on(options, run, watch)
        if options.force and run.exists():
            run.clear()
        finished = fitting.fit(
            asked,
            images,
            run,
            command=command,
            resume=resume,
            checkpoints=run_options.checkpoints(options),
            recover=options.recover,
        )
    if not finished:
        return cli.INTERRUPTED
    if tells:
        print(f"run:     {run.folder}\nfigures: {run.figures}")
    return 0


if __name__ == "__main__":
    cli.run(main)
