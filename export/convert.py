"""Exports a finished run: files that draw its digits without TensorFlow.

    python export/convert.py runs/part-2.5 [--to DIR] [--also float16,int8,tflite]

Writes DIR/saved_model/, denoiser.onnx, sampler.onnx, sampler_noise.onnx and parity.json (how far each is from the Keras model), all of
them or none. --sampler, --steps and so on become the file's defaults; --best takes them from a sweep. --reader is copied to DIR/reader.onnx.
"""

import argparse
import pathlib
import sys

from keras_diffusion import cli, runs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import onnx_classifier
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.spec import ALSO


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="convert.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run of part 2.x")
    parser.add_argument(
        "--to", type=cli.name, metavar="DIR", help="folder to make or replace (RUN/export)"
    )
    parser.add_argument(
        "--also",
        type=_also,
        default=(),
        metavar="float16,int8,tflite",
        help="ONNX files with smaller weights; one call of the network for TensorFlow Lite",
    )
    sampling_options.add_defaults(parser, own=True)
    sampling_options.add_redraw(parser)
    parser.add_argument(
        "--best",
        type=cli.name,
        metavar="SWEEP",
        help="take the defaults from this sweep of evaluate.py",
    )
    parser.add_argument(
        "--calls", type=cli.integer(1), metavar="N", help="--best within N network calls (10)"
    )
    options = parser.parse_args(arguments)
    if options.calls and not options.best:
        parser.error("--calls: expected with --best, got it alone")
    if options.redraw is not None and not options.reader:
        parser.error("--redraw: expected --reader as well, got it alone")
    options.calls = options.calls or 10
    return options


def _also(text):
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(ALSO):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(ALSO)} with commas between them, got {text!r}"
        )
    return names


def describe(record):
    """What the spec says of the run; no path of this machine."""
    settings = {**record["settings"], "data": _last_name(record["settings"].get("data"))}
    data = {key: value for key, value in record["data"].items() if key != "class_names"}
    told = {
        **{name: record.get(name) for name in ("title", "parts", "steps", "ema_decay")},
        "settings": settings,
        "data": {**data, "source": _last_name(data.get("source"))},
    }
    if runs.DISTILLED in record:
        distilled = record[runs.DISTILLED]
        told[runs.DISTILLED] = {**distilled, "data": _last_name(distilled.get("data"))}
        for name in {"match", "match_last"} & set(distilled):
            told[runs.DISTILLED][name] = [_last_name(path) for path in distilled[name]]
    return told


def _last_name(path):
    return pathlib.Path(path).name if isinstance(path, str) else None


def best_way(options, model):
    """The defaults that a sweep of this model found best."""
    cli.need("scipy", "sklearn", "matplotlib", extra="evaluate")
    from keras_diffusion import spec
    from keras_diffusion.evaluation import sweep

    weights = spec.weights_sha256(model.sampling_network.get_weights())
    way = sweep.best_of_file(options.best, calls=options.calls, weights=weights)
    print(f"defaults, the best in {options.calls} calls: {way}")
    return way


def main():
    options = parse(sys.argv[1:])
    run, record = runs.finished(options.run)
    cli.need("tensorflow", extra="train")
    cli.need("onnx", "tf2onnx", extra="export")
    cli.need("onnxruntime", extra="onnx")
    if options.reader:
        onnx_classifier.Classifier(options.reader)  # read before minutes of work
    cli.load_tensorflow()
    from keras_diffusion.exporting import convert

    model = runs.load_sampler(run)
    given = sampling_options.default_arguments(options)
    if options.best:
        given = {**best_way(options, model), **given}
    folder = pathlib.Path(options.to or run.folder / runs.EXPORT)
    try:
        certificate = convert.convert(
            model,
            folder,
            training=describe(record),
            class_names=runs.class_names(record, model.num_classes),
            defaults=convert.default_sampling(model, given),
            reader=options.reader,
            redraw=options.redraw,
            also=options.also,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(sampling_options.said_of_options(error)) from None
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
