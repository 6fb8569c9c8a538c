"""Trains a student that draws in a few calls of the network what its teacher, a finished run, draws in many, guidance included.

    python scripts/distill.py runs/part-2.5-best --steps 10 --guidance 1.5 --guidance-interval 0.35,0.7 --epochs 5
    python scripts/distill.py runs/part-2.5-best-distilled --match classifier.onnx
    python scripts/distill.py runs/part-2.5-best-distilled --match classifier.onnx --refine 24

The second brings what a student draws closer to real images, as a classifier sees them; the third trains for it a network behind the last call. Writes a run folder, OUT/run.json, metrics.csv, model.keras, checkpoints/, which sample.py, evaluate.py and convert.py take. Ctrl-C
saves; --resume goes on.
"""

import os
import sys

from keras_diffusion import cli, data, run_options, runs, settings, student, workers
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import options as sampling_options


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="distill.py", description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of the teacher: a finished run of part 2.x")
    sampling_options.add_times(parser, "10")
    steps = "of the teacher in one of the student's (3)"
    add("--teacher-steps", type=cli.integer(1, 1000), metavar="K", help=steps)
    sampling_options.add_guidance(parser, "1")
    matched = "classifiers of train_judge.py: what RUN draws, in its own steps, is brought to real images' features"
    add("--match", type=cli.names, metavar="FILE,...", help=matched)
    last = "with --match: further ones, of which the means of the last block alone are compared"
    add("--match-last", type=cli.names, metavar="FILE,...", help=last)
    thinned = "in place of each of these, K networks of it without a fifth of the channels between blocks, others for each --seed (0: the whole one)"
    add("--thinned", type=cli.integer(0, 10), metavar="K", help=thinned)
    pool = (
        "noises that an epoch draws from over and over, with --match (20 a feature, at least 2000)"
    )
    add("--pool", type=cli.integer(1, 1_000_000), metavar="N", help=pool)
    refine = "with --match a network is put behind the last call and trained alone, which is faster: a small one of width W, or a copy of RUN's own"
    refiner = cli.word_or_integer(settings.COPY, 1, settings.MOST["width"])
    add("--refine", type=refiner, metavar="{W,copy}", help=refine)
    through = "with --match the gradient goes back through the last K calls (all)"
    add("--through", type=cli.integer(1, 1000), metavar="K", help=through)
    emphasis = "with --match: what the means of the classifiers' last blocks count for, beside 1 of each other group of what they see (1)"
    add("--emphasis", type=cli.number(0.01, 1000), metavar="E", help=emphasis)
    add("--epochs", type=cli.integer(1, settings.MOST["epochs"]), help="(5; 1 with --match)")
    size = cli.integer(1, settings.MOST["batch_size"])
    add("--batch-size", type=size, metavar="B", help="(128; 100 with --match)")
    add("--optimizer", choices=student.OPTIMIZERS, help="with --match (muon)")
    rate = "of the optimizer (0.0005; with --match adam's 0.00002, a refiner's 0.003, a copy's 0.001, muon's 0.001 far from real images, falling to 0.00004 near them)"
    add("--rate", type=cli.number(1e-8, 1), help=rate)
    add("--data", type=cli.name, help="as for fit.py (what the teacher was trained on)")
    add(
        "--limit",
        type=cli.integer(1),
        metavar="N",
        help="the first N images only (as many as the teacher, unless --data is given)",
    )
    add("--seed", type=cli.integer(0, settings.MOST["seed"]), help="of every draw (0)")
    run_options.add(parser, "RUN-distilled")
    return parser.parse_args(arguments)


def open_run(options, record):
    """What is asked, and run.json of the student that goes on, or None; checked before anything is touched."""
    run = runs.Run(options.out or f"{os.path.relpath(os.path.abspath(options.run))}-distilled")
    if os.path.realpath(run.folder) == os.path.realpath(options.run):
        raise UserError(f"--out: expected another folder than the teacher's, got {run.folder}")
    before = run_options.earlier(options, run)
    others = {"run", *run_options.NAMES}
    given = {name: value for name, value in vars(options).items() if name not in others}
    return student.resolve(given, record, before), run, before


def main():
    options = parse(sys.argv[1:])
    worker = run_options.which_worker(options)
    teacher, record = runs.finished(options.run)
    asked, run, before = open_run(options, record)
    images = data.load(asked.data, notify=print)
    images = images.limit(asked.limit) if asked.limit else images
    cli.need("tensorflow", "tqdm", "filelock", extra="train")
    if asked.match:
        cli.need("onnxruntime", "onnx", extra="all")
        print(student.check_readers(asked, images))
    if before is None and (told := student.told_of_times(asked, record)):
        print(told)
    run_options.check_data(before, images)
    with workers.folder(worker, run) as (own, watch):
        # Once more: meanwhile another process may have gone on.
        asked, run, before = open_run(options, record)
        run_options.check_data(before, images)
        return train(options, asked, teacher, record, images, own, watch)


def train(options, asked, teacher, record, images, run, watch):
    """Trains, in a folder that is ours alone."""
    cli.load_tensorflow(devices=options.devices, workers=watch is not None)
    from keras_diffusion import distilling, replicas

    strategy = replicas.strategy(options.devices, workers=watch is not None)
    replicas.check_batches(strategy, len(images.x_train), asked.batch_size)
    tells = run_options.tells(watch)
    run_options.tell_what_stays(options, run, watch)
    with workers.together(strategy, run, watch), run_options.telling_how_to_go_on() as command:
        before = run.read() if run_options.goes_on(options, run, watch) else None
        finished = distilling.train(
            asked,
            runs.load_sampler(teacher),
            images,
            run,
            record=record,
            command=command,
            earlier=before,
            checkpoints=run_options.checkpoints(options),
            recover=options.recover,
        )
    if not finished:
        return cli.INTERRUPTED
    if tells:
        print(f"run: {run.folder}")
    return 0


if __name__ == "__main__":
    cli.run(main)
