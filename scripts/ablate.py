"""What each part of our own recipe buys: it is trained with one part at a time taken back, and every training is judged alike.

    python scripts/ablate.py --data mnist --width 16 --epochs 2 --out ablation

Each line is a training from scratch; what is measured is kept in OUT/ablation.json, and an ablation that was stopped goes on.
"""

import pathlib
import sys

from keras_diffusion import cli, data, settings


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="ablate.py", description=__doc__)
    parser.add_argument("--data", default="mnist", help="as for fit.py (mnist)")
    parser.add_argument("--limit", type=cli.integer(1), metavar="N", help="the first N images only")
    parser.add_argument("--width", type=cli.integer(1, 1024), default=16, metavar="D", help="(16)")
    parser.add_argument("--epochs", type=cli.integer(1), default=2, help="(2)")
    parser.add_argument(
        "--num-samples", type=cli.integer(1, 10**6), default=1000, metavar="N", help="(1000)"
    )
    parser.add_argument("--seed", type=cli.integer(0, 2**32 - 1), default=0, help="(0)")
    parser.add_argument(
        "--precision", choices=settings.PRECISIONS, default="float32", help="(float32)"
    )
    parser.add_argument("--variants", metavar="NAME,...", help="some of them (all)")
    parser.add_argument("--out", default="ablation", help="folder (ablation)")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    cli.need("tensorflow", extra="train")
    cli.need("onnxruntime", "scipy", "sklearn", "rich", extra="evaluate")
    images = data.load(options.data, notify=print)
    images = images.limit(options.limit) if options.limit else images
    cli.load_tensorflow()
    import keras
    from rich.console import Console

    from keras_diffusion.evaluation import ablation, table
    from keras_diffusion.evaluation.judge import of_classes

    names = chosen(options.variants, ablation.NAMES)
    keras.config.set_dtype_policy(options.precision)
    record = ablation.ablate(
        names,
        of_classes(images.class_names),
        images,
        options.out,
        width=options.width,
        epochs=options.epochs,
        count=options.num_samples,
        seed=options.seed,
    )
    Console(width=110).print(table.ablation(record, tuple(ablation.WAYS)))
    print(pathlib.Path(options.out, "ablation.json"))
    return 0


def chosen(text, names):
    """Names with commas between them; None is all of them."""
    words = text.split(",") if text is not None else list(names)
    wrong = [word for word in words if word not in names]
    if wrong:
        raise cli.UserError(f"--variants: expected some of {', '.join(names)}, got {wrong[0]!r}")
    return words


if __name__ == "__main__":
    cli.run(main)
