"""Draws images with a trained run, through Keras.

    python scripts/sample.py runs/part-2.5 --labels 0,1,2 --per-label 10 --sampler ddim --steps 20 --out digits.png

Writes a .png grid (a label a row), a .gif of the estimates on the way, or a .npy, float32 [N, H, W, C] in [0, 1], all of the first
label, then the next. The noise of an image is keyed by (seed, label, number within the label).
"""

import pathlib
import sys
import time
import zipfile

import numpy as np

from keras_diffusion import cli, pictures, runs
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sampling import options as sampling_options
from keras_diffusion.sampling.frames import Frames


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="sample.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run of part 2.x")
    sampling_options.add(parser)
    parser.add_argument("--out", default="samples.png", help=".png, .gif or .npy (samples.png)")
    return parser.parse_args(arguments)


def open_run(folder):
    """The folder of a finished run, and what its run.json says."""
    run = runs.Run(folder)
    if not run.exists():
        raise UserError(f"RUN: expected the folder of a run, got {folder!r}, which has no run.json")
    record = run.read()
    if record["status"] != "finished":
        raise UserError(
            f"RUN: expected a finished run, got {folder!r}, which is {record['status']}"
        )
    if not run.model.is_file():
        raise UserError(f"RUN: expected a run that trained a model, got {folder!r} without one")
    return run, record


def load(run):
    """The model of a run that draws from noise."""
    import keras

    try:
        model = keras.models.load_model(run.model)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        raise UserError(
            f"{run.model}: expected a model that can be read, got a damaged file"
        ) from None
    if model.schedule.num_train_steps == 1:
        raise UserError("RUN: expected a run of part 2.x, got a one-step denoiser's")
    return model


def grid(images, labels, names):
    """[..., N, H, W, C] as rows [..., R, columns, H, W, C], and their names: a label a row, or ten a row without labels."""
    rows = list(dict.fromkeys(labels.tolist()))
    columns = labels.size // len(rows) if names else min(10, labels.size)
    missing = -labels.size % columns  # black
    padding = [(0, 0)] * (images.ndim - 4) + [(0, missing)] + [(0, 0)] * 3
    images = np.pad(images, padding)
    shape = (*images.shape[:-4], -1, columns, *images.shape[-3:])
    return images.reshape(shape), [names[label] for label in rows] if names else None


def write(path, images, frames, labels, names):
    """Writes what was drawn, whole or not at all."""
    kind = pathlib.Path(path).suffix.lower()
    if kind == ".npy":
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, images, allow_pickle=False)
        return
    from keras_diffusion import figures

    if kind == ".gif":
        figures.animation(path, grid(frames.all(), labels, names)[0])
    else:
        pictures, names = grid(images, labels, names)
        figures.image_grid(path, pictures, row_labels=names)


def class_names(record, num_classes):
    """What the rows are called: none without classes."""
    if not num_classes:
        return []
    return [*record["data"].get("class_names", map(str, range(num_classes))), "no class"]


def main():
    options = parse(sys.argv[1:])
    run, record = open_run(options.run)
    cli.check_output(options.out, (".png", ".gif", ".npy"))
    cli.need("tensorflow", "matplotlib", "tqdm", extra="train")
    cli.load_tensorflow()
    model = load(run)
    labels = sampling_options.labels(options, model.num_classes)
    asked = {
        **sampling_options.plan_arguments(options),
        **sampling_options.sample_arguments(options),
    }
    if options.start_from:
        asked["start_from"] = pictures.read(options.start_from, model.image_shape)
    if options.keep:
        asked["keep"] = pictures.read(options.keep, model.image_shape) > 0.5
    frames = Frames(labels.size) if options.out.lower().endswith(".gif") else None
    began = time.perf_counter()
    try:
        images = model.sample(labels, callback=frames, progress=sys.stderr.isatty(), **asked)
    except ValueError as error:
        raise UserError(str(error)) from None
    seconds = time.perf_counter() - began
    write(options.out, images, frames, labels, class_names(record, model.num_classes))
    print(f"{len(images)} images in {seconds:.1f} s: {options.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
