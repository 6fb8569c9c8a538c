"""Draws images with a trained run, through Keras.

    python scripts/sample.py runs/part-2.5 --labels 0,1,2 --per-label 10 --sampler ddim --steps 20 --out digits.png

Writes a .png grid (a label a row), a .gif of the estimates on the way, or a .npy, float32 [N, H, W, C] in [0, 1], all of the first
label, then the next. The noise of an image is keyed by (seed, label, number within the label).
"""

import pathlib
import sys
import time

import numpy as np

from keras_diffusion import cli, imagefiles, runs
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sampling import onnx_classifier
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.sampling.frames import Frames


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="sample.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run of part 2.x")
    sampling_options.add(parser, own=True)
    parser.add_argument("--out", default="samples.png", help=".png, .gif or .npy (samples.png)")
    return parser.parse_args(arguments)


def write(path, images, frames, labels, names):
    """Writes what was drawn, whole or not at all."""
    kind = pathlib.Path(path).suffix.lower()
    if kind == ".npy":
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, images, allow_pickle=False)
        return
    from keras_diffusion import figures

    if kind == ".gif":
        figures.animation(path, imagefiles.grid(frames.all(), labels, names)[0])
    else:
        pictures, names = imagefiles.grid(images, labels, names)
        figures.image_grid(path, pictures, row_labels=names)


def main():
    options = parse(sys.argv[1:])
    run, record = runs.finished(options.run)
    cli.check_output(options.out, (".png", ".gif", ".npy"))
    sampling_options.check_redraw(options)
    cli.need("tensorflow", "matplotlib", "tqdm", extra="train")
    if options.reader:
        cli.need("onnxruntime", extra="onnx")
    cli.load_tensorflow()
    model = runs.load_sampler(run)
    labels = sampling_options.labels(options, model.num_classes)
    names = runs.class_names(record, model.num_classes)
    reader = onnx_classifier.reader(
        options.reader, image_shape=model.image_shape, class_names=names
    )
    suffix = pathlib.Path(options.out).suffix.lower()
    if suffix != ".npy":
        columns = (options.per_label or 10) if names else min(10, labels.size)
        imagefiles.check(suffix, labels.size, model.image_shape, columns=columns)
    asked = sampling_options.arguments(options, model.image_shape)
    if told := sampling_options.told_of_times(options, runs.learned_times(record)):
        print(told, file=sys.stderr)
    frames = Frames(labels.size) if suffix == ".gif" else None
    began = time.perf_counter()
    try:
        images = model.sample(
            labels,
            callback=frames,
            progress=sys.stderr.isatty(),
            reader=reader and reader.probabilities,
            **asked,
        )
    except ValueError as error:
        raise UserError(sampling_options.said_of_options(error)) from None
    seconds = time.perf_counter() - began
    write(options.out, images, frames, labels, [*names, "no class"] if names else [])
    print(f"{len(images)} images in {seconds:.1f} s: {options.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
