"""Measures speed, start and memory, beside the course's network and loops written plainly in PyTorch (where that is installed).

    python scripts/benchmark.py train --width 64 --precisions float32,mixed_bfloat16
    python scripts/benchmark.py sample --growth --images 10000
    python scripts/benchmark.py startup

train: steps of training. sample: digits in onnxruntime, in the model's own default way, against the course's loop (300 steps, two calls
each) in Keras and in PyTorch. startup: fresh processes to ten digits on the disk, to fit.py's help and refusal, to a first training step. What
is compared takes turns in processes of its own. Writes OUT/benchmark.json, with --growth OUT/growth.png too.
"""

import argparse
import os
import pathlib
import sys

from keras_diffusion import cli, extras
from keras_diffusion.benchmarking import variants
from keras_diffusion.errors import UserError
from keras_diffusion.files import check_replaceable

NONE = "none"


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="benchmark.py", description=__doc__)
    whats = parser.add_subparsers(dest="what", required=True, metavar="train|sample|startup")
    train = whats.add_parser("train", description="Steps of training, ours and PyTorch's.")
    sample = whats.add_parser("sample", description="Digits a second, ours and PyTorch's.")
    startup = whats.add_parser("startup", description="Fresh processes.")
    every = list(variants.PEER_MODES)
    _add_common(train, width=64, peer=every)
    _add_common(sample, width=32, peer=every)
    _add_common(startup, width=64, peer=["eager", "channels_last"])  # compiling only delays it
    for some in (train, startup):
        some.add_argument(
            "--batch-size", type=cli.integer(1), default=128, metavar="B", help="(128)"
        )
    for some in (sample, startup):
        some.add_argument("--model", metavar="FILE.onnx", help="(the package's own model)")
    for some in (train, sample):
        _add_compared(some)
    _add_growth(
        train,
        (("batch-sizes", "32,64,128,256,512"), ("widths", "16,32,64,128")),
    )
    _add_growth(
        sample,
        (("step-counts", "1,3,10,30,100,300"), ("image-counts", "1,10,100,1000")),
    )
    sample.add_argument("--digits", type=cli.integer(1), default=100, help="drawn at once (100)")
    sample.add_argument(
        "--measured-steps",
        type=cli.integer(1, variants.NUM_TRAIN_STEPS),
        default=10,
        metavar="K",
        help="of the course's 300: their time is multiplied (10)",
    )
    sample.add_argument(
        "--images", type=cli.integer(1), metavar="N", help="draw N once more, for peak memory"
    )
    options = parser.parse_args(arguments)
    _settle_growth(parser, options)
    options.out = options.out or os.path.join("benchmark", options.what)
    return options


def _add_common(parser, *, width, peer):
    add = parser.add_argument
    add("--width", type=cli.integer(1, 1024), default=width, metavar="D", help=f"({width})")
    add("--rounds", type=cli.integer(1), default=7, help="turns of each (7)")
    modes = variants.PEER_MODES
    usual = "all" if len(peer) == len(modes) else ",".join(peer)
    add(
        "--peer",
        type=_listed(modes, none=True),
        default=peer,
        metavar="MODES",
        help=f"none, or of {', '.join(modes)} ({usual})",
    )
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="(auto)")
    add("--threads", type=cli.integer(1, 1024), help="of each process (as the libraries like)")
    add("--out", help="folder (benchmark/train, benchmark/sample, benchmark/startup)")


def _add_compared(parser):
    add = parser.add_argument
    add("--steps", type=cli.integer(1), default=3, help="of each variant a turn (3)")
    precisions = ", ".join(variants.PRECISIONS)
    add(
        "--precisions",
        type=_listed(variants.PRECISIONS),
        metavar="LIST",
        help=f"of {precisions} (float32; all on a GPU)",
    )
    modes = ", ".join(variants.OUR_MODES)
    add(
        "--ours",
        type=_listed(variants.OUR_MODES),
        default=["auto"],
        metavar="MODES",
        help=f"of {modes} (auto)",
    )


def _add_growth(parser, lists):
    add = parser.add_argument
    add("--growth", action="store_true", help="measure other sizes too")
    add("--growth-rounds", type=cli.integer(1), metavar="N", help="with --growth: turns a size (3)")
    for name, usual in lists:
        add(f"--{name}", type=_integers, metavar="LIST", help=f"with --growth ({usual})")
    parser.set_defaults(lists=lists)


def _settle_growth(parser, options):
    """The lists that --growth goes through; without it none may be given."""
    lists = (*vars(options).pop("lists", ()), ("growth-rounds", "3"))
    for name, usual in lists if options.what != "startup" else ():
        key = name.replace("-", "_")
        if getattr(options, key) is None:
            setattr(options, key, 3 if name == "growth-rounds" else _integers(usual))
        elif not options.growth:
            parser.error(f"--{name}: expected with --growth, got it alone")


def _integers(text):
    return [cli.integer(1)(word) for word in text.split(",")]


def _listed(names, *, none=False):
    """An option's type: some of these names with commas between them, each once."""
    wanted = f"{'none, or ' if none else ''}some of {', '.join(names)}"

    def parse(text):
        words = [] if none and text == NONE else text.split(",")
        if any(word not in names for word in words) or len(set(words)) < len(words):
            raise argparse.ArgumentTypeError(f"expected {wanted}, each once, got {text!r}")
        return words

    return parse


def measure(options):
    """The record of what is asked."""
    from keras_diffusion.benchmarking import comparing, tasks

    how = comparing.Measuring(
        options.rounds,
        getattr(options, "steps", 1),
        options.device,
        options.threads,
        say=lambda line: print(line, file=sys.stderr),
    )
    if options.peer and not tasks.has_torch():
        how.say(f"PyTorch is not installed, ours alone: {extras.advice('benchmark')}")
    if options.what == "startup":
        return tasks.startup(options, how, scripts=pathlib.Path(__file__).resolve().parent)
    return {"train": tasks.train, "sample": tasks.sample}[options.what](options, how)


def main():
    options = parse(sys.argv[1:])
    if getattr(options, "model", None) and not os.path.isfile(options.model):
        raise UserError(f"--model: expected an ONNX file, found none: {options.model}")
    check_replaceable(options.out, made="benchmark.json")
    cli.need("rich", "matplotlib", extra="benchmark")
    cli.need("onnxruntime", extra="onnx")
    cli.need("tensorflow", extra="train")
    record = measure(options)
    from rich.console import Console

    from keras_diffusion.benchmarking import plot, table, tasks

    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    tasks.write(folder / "benchmark.json", record)
    if record.get("growth"):
        plot.plot(folder / "growth.png", record)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for one in table.tables(record):
        console.print(one)
    print(folder / "benchmark.json")
    return 0


if __name__ == "__main__":
    cli.run(main)
