"""Trains a judge: a small classifier, as an ONNX file that evaluate.py reads images with.

    python scripts/train_judge.py --data mnist --out keras_diffusion/models/judge-mnist.onnx

    python scripts/train_judge.py --data mnist --join a.onnx,b.onnx,c.onnx --out reader.onnx

trains nothing: one file of several that it wrote, which gives an image the mean of their probabilities; the first reads every image, and the others
those that it isn't sure of.

The weights are stored in 16 bits. What the file says of itself (its accuracy on the test set too) is in its metadata. A judge that reads
fewer than --at-least of the test images right is not written.
"""

import argparse
import sys

from keras_diffusion import cli, data, settings
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sampling import onnx_classifier

RECIPE = {  # unless told otherwise
    "epochs": 10,
    "flip": False,
    "width": 32,
    "seed": 0,
    "precision": "float32",
}


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="train_judge.py", description=__doc__)
    parser.add_argument("--data", type=cli.name, default="mnist", help="as for fit.py (mnist)")
    parser.add_argument("--epochs", type=cli.integer(1), help="(10)")
    parser.add_argument(
        "--flip",
        action="store_true",
        default=None,
        help="mirror images in training, in place of turning them a little",
    )
    parser.add_argument("--width", type=cli.integer(1, 1024), metavar="D", help="(32)")
    parser.add_argument("--seed", type=cli.integer(0, 2**32 - 1), help="(0)")
    parser.add_argument("--precision", choices=settings.PRECISIONS, help="(float32)")
    parser.add_argument(
        "--join", type=_files, metavar="FILES", help="two or more of its files; none is trained"
    )
    parser.add_argument(
        "--at-least", type=cli.number(0, 1), default=0.0, metavar="SHARE", help="(0)"
    )
    parser.add_argument("--out", default="judge.onnx", help=".onnx (judge.onnx)")
    options = parser.parse_args(arguments)
    given = {name: got for name in RECIPE if (got := getattr(options, name)) is not None}
    if options.join and given:
        name, got = next(iter(given.items()))
        parser.error(f"--{name}: expected none with --join, got {got}")
    options.recipe = RECIPE | given
    return options


def _files(text):
    names = cli.names(text)
    if len(names) < 2:
        raise argparse.ArgumentTypeError(f"expected two or more files, a comma apart, got {text!r}")
    return names


def main():
    options = parse(sys.argv[1:])
    cli.check_output(options.out, (".onnx",))
    images = data.load(options.data, notify=print)
    cli.need("onnxruntime", "onnx", extra="all")
    model, says = _joined(options, images) if options.join else _trained(options, images)
    accuracy = says["test_accuracy"]
    if accuracy < options.at_least:
        raise UserError(
            f"--at-least: expected {options.at_least:.2%} of the test images to be read right, got {accuracy:.2%}; {'join better ones' if options.join else 'train longer'}"
        )
    with replacing(options.out) as beside:
        beside.write_bytes(model)
    print(
        f"{options.out}: {len(model):,} bytes, sha256 {onnx_classifier.Classifier(options.out).sha256}"
    )
    took = "" if options.join else f", {says['seconds']:.0f} s of training"
    print(f"{accuracy:.2%} of {says['data']['test_count']:,} test images{took}")
    return 0


def _trained(options, images):
    cli.need("tensorflow", extra="train")
    cli.need("tf2onnx", extra="export")
    cli.load_tensorflow()
    from keras_diffusion.evaluation import judge_training

    return judge_training.make(images, options.recipe, verbose=2)  # a line an epoch


def _joined(options, images):
    from keras_diffusion.evaluation import joining

    return joining.join(options.join, images)


if __name__ == "__main__":
    cli.run(main)
