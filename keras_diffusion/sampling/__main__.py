"""Draws images with an exported model, on NumPy and onnxruntime alone.

    python -m keras_diffusion.sampling --labels 0,1,2 --per-label 10 --seed 0 --out digits.png

FILE.onnx is a denoiser.onnx or sampler.onnx that export/convert.py wrote; without it, the digits that come with the package. What isn't
given is the model's own default. Writes a .png grid (a label a row), a .gif of the estimates on the way, or a .npy, float32 [N, H, W, C]
in [0, 1], all of the first label, then the next. The noise of an image is keyed by (seed, label, number within the label).
"""

import argparse
import os
import sys
import time

import numpy as np

from keras_diffusion import cli, imagefiles, runs
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sampling import onnx_model, options, request
from keras_diffusion.sampling.frames import Frames

_SHARD = "k/n with 1 <= k <= n"


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog=cli.program(), description=__doc__)
    parser.add_argument("file", nargs="?", metavar="FILE.onnx", help="(the package's own model)")
    options.add(parser, own=True)
    parser.add_argument("--out", default="digits.png", help=".png, .gif or .npy (digits.png)")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="K/N", help="the K-th of N parts, as .npy"
    )
    parser.add_argument("--threads", type=cli.integer(1, 1024), help="(one a CPU)")
    parser.add_argument(
        "--provider", choices=("auto", "cpu", "cuda"), default="auto", help="cuda if there (auto)"
    )
    return parser.parse_args(arguments)


def _shard(text):
    words = text.split("/")
    if len(words) == 2 and all(word.isdecimal() and len(word) <= 10 for word in words):
        k, n = map(int, words)
        if 1 <= k <= n <= 10**9:
            return k, n
    raise argparse.ArgumentTypeError(f"expected {_SHARD}, got {text!r}")


def main():
    asked = parse(sys.argv[1:])
    suffix = os.path.splitext(asked.out)[1].lower()
    cli.check_output(asked.out, (".png", ".gif", ".npy"))
    options.check_redraw(asked)
    if asked.shard != (1, 1) and suffix != ".npy":
        raise UserError(f"--out: expected a .npy with --shard, got {asked.out!r}")
    cli.need("onnxruntime", extra="onnx")
    model = onnx_model.load(
        asked.file, reader=asked.reader, threads=asked.threads, provider=asked.provider
    )
    if suffix == ".gif" and not isinstance(model, onnx_model.Denoiser):
        raise UserError(
            "--out: expected .png or .npy with a sampler.onnx, got .gif; use the denoiser.onnx"
        )
    labels = options.labels(asked, model.spec.num_classes)
    if suffix != ".npy":
        columns = (asked.per_label or 10) if model.spec.num_classes else min(10, labels.size)
        imagefiles.check(suffix, labels.size, model.spec.image_shape, columns=columns)
    arguments = options.arguments(asked, model.spec.image_shape)
    if told := options.told_of_times(asked, runs.learned_times(model.spec.training)):
        print(told, file=sys.stderr)
    began = time.perf_counter()
    try:
        count = _draw(model, labels, asked, suffix, arguments)
    except ValueError as error:
        raise UserError(options.said_of_options(error)) from None
    print(f"{count} images in {time.perf_counter() - began:.2f} s: {asked.out}")
    return 0


def _draw(model, labels, asked, suffix, arguments):
    """Draws and writes the file, whole or not at all; how many images."""
    if suffix == ".npy":
        chosen = request.shard(len(labels), *asked.shard)
        with replacing(asked.out) as beside, beside.open("wb") as file:
            model.sample(labels, shard=asked.shard, out=lambda s: _Appended(file, s), **arguments)
        return chosen.stop - chosen.start
    frames = Frames(labels.size) if suffix == ".gif" else None
    images = model.sample(labels, **arguments, **({"callback": frames} if frames else {}))
    names = range(model.spec.num_classes + 1) if model.spec.num_classes else []
    if frames:
        rows, _ = imagefiles.grid(frames.all(), labels, names)
        data = imagefiles.gif(np.stack([imagefiles.tile(frame) for frame in rows]))
    else:
        data = imagefiles.png(imagefiles.tile(imagefiles.grid(images, labels, names)[0]))
    with replacing(asked.out) as beside:
        beside.write_bytes(data)
    return len(labels)


class _Appended:
    """A .npy file that images are written to as they come, in order: as many as a disk takes, with memory for a few."""

    def __init__(self, file, shape):
        self.file = file
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def __setitem__(self, chosen, images):
        self.file.write(np.ascontiguousarray(images, "<f4").data)


if __name__ == "__main__":
    cli.run(main)
