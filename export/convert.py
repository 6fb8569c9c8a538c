"""Exports a finished run: files that draw its digits without TensorFlow.

    python export/convert.py runs/part-2.5 [--to DIR] [--also float16,int8,tflite]

Writes DIR/saved_model/, denoiser.onnx, sampler.onnx, sampler_noise.onnx and parity.json (how far each is from the Keras model), all of
them or none. --sampler, --steps and so on become the file's defaults.
"""

import argparse
import pathlib
import sys

from keras_diffusion import cli, runs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.spec import ALSO


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="convert.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run of part 2.x")
    parser.add_argument("--to", metavar="DIR", help="folder to make or replace (RUN/export)")
    parser.add_argument(
        "--also",
        type=_also,
        default=(),
        metavar="float16,int8,tflite",
        help="ONNX files with smaller weights; one call of the network for TensorFlow Lite",
    )
    sampling_options.add_defaults(parser)
    return parser.parse_args(arguments)


def _also(text):
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(ALSO):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(ALSO)} with commas between them, got {text!r}"
        )
    return names


def describe(record):
    """What the spec says of the run; no path of this machine."""
    settings = {**record["settings"], "data": pathlib.Path(record["settings"]["data"]).name}
    data = {key: value for key, value in record["data"].items() if key != "class_names"}
    return {
        "title": record["title"],
        "parts": record["parts"],
        "settings": settings,
        "data": {**data, "source": pathlib.Path(data["source"]).name},
        "steps": record["steps"],
        "ema_decay": record["ema_decay"],
    }


def main():
    options = parse(sys.argv[1:])
    run, record = runs.finished(options.run)
    cli.need("tensorflow", extra="train")
    cli.need("onnx", "tf2onnx", extra="export")
    cli.need("onnxruntime", extra="onnx")
    cli.load_tensorflow()
    from keras_diffusion.exporting import convert

    model = runs.load_sampler(run)
    given = sampling_options.default_arguments(options)
    folder = pathlib.Path(options.to or run.folder / "export")
    try:
        certificate = convert.convert(
            model,
            folder,
            training=describe(record),
            class_names=runs.class_names(record, model.num_classes),
            defaults=convert.default_sampling(model, given),
            also=options.also,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    _report(folder, certificate)
    return 0


def _report(folder, certificate):
    from keras_diffusion.exporting.parity import FILES

    worst = {}
    for row in (*certificate["calls"], *certificate["samples"], *certificate.get("tflite", ())):
        for name in set(row) & set(FILES):
            worst[name] = max(worst.get(name, 0.0), row[name])
    for name in FILES:
        if name in worst:
            print(f"{name}: within {worst[name]:.2g} of the Keras model")
    for found in certificate["smaller"]:
        print(
            f"{found['precision']}: pixels differ by {found['mean']:.2g} in the mean, {found['mean_of_worst_image']:.2g} in the worst of {found['images']} images"
        )
    for name, size in certificate["bytes"].items():
        if name.endswith((".onnx", ".tflite")):
            print(f"{folder / name}: {size / 1e6:.2f} MB")
    print(f"{folder / 'saved_model'}, {folder / 'parity.json'}")


if __name__ == "__main__":
    cli.run(main)
