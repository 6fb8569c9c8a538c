"""Measures how good a model's images are, beside as many real ones.

    python scripts/evaluate.py runs/part-2.5 --num-samples 10000
    python scripts/evaluate.py runs/part-2.5/export/denoiser.onnx --steps 5 --guidance 1.5
    python scripts/evaluate.py runs/part-2.5/export/denoiser.onnx --sweep --step-counts 5,10 --scales 1,1.5,2

Draws images of every class, reads them with a judge (a classifier whose file comes with the package) and measures class accuracy, Fréchet and kernel
distance, precision, recall, density, coverage, and nearness to training images: each with its 95% interval and the same figure of real images. Writes
OUT/evaluation.json, confusion.png, neighbours.png, samples.png. --sweep measures accuracy and distance for many ways to draw instead, and goes on where it was
stopped: OUT/sweep.json, sweep.csv, sweep.png; export/convert.py --best takes its best as a model's default.
"""

import argparse
import os
import pathlib
import sys

from keras_diffusion import cli, data, runs
from keras_diffusion.errors import UserError
from keras_diffusion.files import check_replaceable
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.sampling.samplers import SAMPLERS
from keras_diffusion.sampling.times import SPACINGS


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument(
        "model", nargs="?", metavar="RUN-or-ONNX", help="(the model that comes with the package)"
    )
    parser.add_argument(
        "--num-samples", type=cli.integer(1, 10**6), metavar="N", help="(10000; with --sweep 1000)"
    )
    sampling_options.add_defaults(parser, own=True)
    sampling_options.add_redraw(parser)
    parser.add_argument("--seed", type=cli.integer(0, 2**63 - 1), default=0, help="(0)")
    parser.add_argument(
        "--seeds",
        type=cli.integer(2, 1000),
        metavar="N",
        help="measure accuracy and distance of N seeds, from --seed on, and everything else of the first",
    )
    parser.add_argument(
        "--data", type=cli.name, help="as for fit.py (what the model was trained on)"
    )
    parser.add_argument(
        "--judge", type=cli.name, metavar="FILE", help="(the package's, for the data)"
    )
    parser.add_argument(
        "--train-on-generated", action="store_true", help="train a classifier on the images too"
    )
    parser.add_argument(
        "--out", type=cli.name, help="folder (RUN/evaluation, or evaluation; RUN/sweep, or sweep)"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="measure every way to draw that the lists below make"
    )
    for name, kind, usual, help in LISTS:
        parser.add_argument(
            f"--{name}", type=_listed(kind), metavar=usual, help="with --sweep: " + help
        )
    parser.add_argument(
        "--times",
        type=_listed(cli.number()),
        action="append",
        metavar="300,120,40",
        help="with --sweep: from T to 0, in place of counts and spacings, or beside counts that are given; may be given more than once",
    )
    options = parser.parse_args(arguments)
    names = [*(name for name, *_ in LISTS), "times"]
    given = [name for name in names if getattr(options, name.replace("-", "_")) is not None]
    if given and not options.sweep:
        parser.error(f"--{given[0]}: expected with --sweep, got it alone")
    single = sampling_options.default_arguments(options)
    single |= {
        name: given
        for name in ("reader", "redraw")
        if (given := getattr(options, name)) is not None
    }
    if options.sweep and single:
        name = next(iter(single))
        lists = f"--{_LISTED[name]}" if name in _LISTED else "none"
        parser.error(
            f"{sampling_options.option(name)}: expected {lists} with --sweep, got one value"
        )
    if options.sweep and options.seeds:
        parser.error(f"--seeds: expected without --sweep, got {options.seeds} with it")
    if options.seed + (options.seeds or 1) > 2**63:
        parser.error(
            f"--seeds: expected seeds below 2**63, got {options.seeds} from {options.seed} on"
        )
    if options.times and options.spacings and not options.step_counts:
        parser.error("--spacings: expected with --step-counts, got it with --times alone")
    if options.times and options.step_counts is None:
        options.step_counts = []
    for name, kind, usual, _ in LISTS:
        if getattr(options, name.replace("-", "_")) is None:
            setattr(options, name.replace("-", "_"), _listed(kind)(usual))
    return options


def _listed(kind):
    """An option's type: values with commas between them."""

    def parse(text):
        return [kind(word) for word in text.split(",")]

    return parse


def _one_of(names):
    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}, got {text!r}")
        return text

    return parse


def _interval(text):
    """LOW-HIGH of t/T."""
    try:
        low, high = (float(word) for word in text.split("-"))
    except ValueError:
        low = high = 0.0
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(
            f"expected LOW-HIGH with 0 <= LOW < HIGH <= 1, got {text!r}"
        )
    return None if (low, high) == (0, 1) else (low, high)


LISTS = (
    ("samplers", _one_of(tuple(SAMPLERS)), "ddpm,ddim,dpmpp_2m,heun", "their names"),
    ("step-counts", cli.integer(1), "5,10,20", "numbers of steps"),
    ("spacings", _one_of(tuple(SPACINGS)), "uniform", "uniform, quadratic, lam"),
    ("etas", cli.number(0, 1), "0", "of ddim: 0 adds no noise, 1 as much as ddpm"),
    ("sharpens", cli.number(0, 1), "0", "0 leaves the images as they are"),
    ("scales", cli.number(), "1,1.5,2,3,5", "guidance scales"),
    ("intervals", _interval, "0-1", "of t/T where guidance acts"),
)
# What an argument of `sample` is called where a list has its values.
_LISTED = {
    "sampler": "samplers",
    "num_steps": "step-counts",
    "spacing": "times",
    "eta": "etas",
    "sharpen": "sharpens",
    "guidance_scale": "scales",
    "guidance_interval": "intervals",
}


def open_images(given, trained_on):
    """The data: what is given, else what the model was trained on, else MNIST."""
    if not given and trained_on and trained_on.endswith(".npz") and not os.path.isfile(trained_on):
        raise UserError(
            f"--data: expected the data that the model was trained on, {trained_on}, found none here; say mnist, fashion_mnist, mnist-5k or a FILE.npz"
        )
    return data.load(given or trained_on or "mnist", notify=print)


def main():
    options = parse(sys.argv[1:])
    own = options.model if options.model and os.path.isdir(options.model) else ""
    folder = options.out or os.path.join(own, runs.SWEEP if options.sweep else runs.EVALUATION)
    if not options.sweep:
        check_replaceable(folder, made="evaluation.json")
    cli.need("onnxruntime", extra="onnx")
    cli.need("scipy", "sklearn", "matplotlib", "rich", extra="evaluate")
    if options.train_on_generated:
        cli.need("tensorflow", extra="train")
    from keras_diffusion.evaluation import subjects
    from keras_diffusion.evaluation.judge import of_classes

    subject = subjects.open_subject(options.model, reader=options.reader)
    images = open_images(options.data, subject.trained_on)
    judge = of_classes(images.class_names, path=options.judge)
    work = sweep if options.sweep else evaluate
    try:
        work(options, subject, judge, images, folder)
    except UserError as error:
        lists = _LISTED if options.sweep else None
        raise UserError(sampling_options.said_of_options(error, lists)) from None
    return 0


def evaluate(options, subject, judge, images, folder):
    """One way to draw, measured in every respect."""
    from rich.console import Console

    from keras_diffusion.evaluation import evaluate, table

    record = evaluate.evaluate(
        subject,
        judge,
        images,
        folder,
        count=options.num_samples or 10_000,
        asked={**sampling_options.default_arguments(options), "redraw": options.redraw},
        seed=options.seed,
        num_seeds=options.seeds or 1,
        train_on_generated=options.train_on_generated,
    )
    console = Console(width=110)
    console.print(table.table(record))
    if "seeds" in record:
        console.print(table.seeds(record))
    print(pathlib.Path(folder, "evaluation.json"))


def sweep(options, subject, judge, images, folder):
    """Many ways to draw."""
    from keras_diffusion.evaluation import sweep

    ways = sweep.grid(
        options.samplers,
        options.step_counts,
        options.spacings,
        options.scales,
        options.intervals,
        etas=options.etas,
        sharpens=options.sharpens,
        times=options.times or [],
    )
    count = options.num_samples or 1000
    record = sweep.sweep(subject, judge, images, folder, ways, count=count, seed=options.seed)
    for calls, row in record["best"].items():
        print(f"best in {calls} calls: {sweep.describe(row) if row else 'none'}")
    print(pathlib.Path(folder, "sweep.json"))


if __name__ == "__main__":
    cli.run(main)
