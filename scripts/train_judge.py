"""Trains the judge: a small classifier, as an ONNX file that evaluate.py reads images with.

    python scripts/train_judge.py --data mnist --out keras_diffusion/models/judge-mnist.onnx

The weights are stored in 16 bits. What the file says of itself (its accuracy on the test set too) is in its metadata. A judge that reads
fewer than --at-least of the test images right is not written.
"""

import sys

from keras_diffusion import cli, data
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sampling import onnx_classifier


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="train_judge.py", description=__doc__)
    parser.add_argument("--data", type=cli.name, default="mnist", help="as for fit.py (mnist)")
    parser.add_argument("--epochs", type=cli.integer(1), default=10, help="(10)")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="mirror images in training, in place of turning them a little",
    )
    parser.add_argument("--width", type=cli.integer(1, 1024), default=32, metavar="D", help="(32)")
    parser.add_argument("--seed", type=cli.integer(0, 2**32 - 1), default=0, help="(0)")
    parser.add_argument(
        "--at-least", type=cli.number(0, 1), default=0.0, metavar="SHARE", help="(0)"
    )
    parser.add_argument("--out", default="judge.onnx", help=".onnx (judge.onnx)")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    cli.check_output(options.out, (".onnx",))
    images = data.load(options.data, notify=print)
    cli.need("tensorflow", extra="train")
    cli.need("tf2onnx", "onnx", extra="export")
    cli.load_tensorflow()
    from keras_diffusion.evaluation import judge_training

    recipe = {name: getattr(options, name) for name in ("epochs", "flip", "width", "seed")}
    model, says = judge_training.make(images, recipe, verbose=2 if sys.stdout.isatty() else 0)
    accuracy = says["test_accuracy"]
    if accuracy < options.at_least:
        raise UserError(
            f"--at-least: expected {options.at_least:.2%} of the test images to be read right, got {accuracy:.2%}; train longer"
        )
    with replacing(options.out) as beside:
        beside.write_bytes(model)
    print(
        f"{options.out}: {len(model):,} bytes, sha256 {onnx_classifier.Classifier(options.out).sha256}"
    )
    print(
        f"{accuracy:.2%} of {says['data']['test_count']:,} test images, {says['seconds']:.0f} s of training"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
