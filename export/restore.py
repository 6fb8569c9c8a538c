"""Makes a finished run of an exported file: the way back from convert.py, for training on, matching with other images, or exporting anew.

    python export/restore.py [FILE.onnx] --out runs/digits

Writes RUN/run.json and model.keras, which sample.py, evaluate.py, distill.py and convert.py take. FILE is a denoiser.onnx in any precision; without one the model that comes with
the package. Its weights are those that the file stores. Not for plain training from where the file's run ended: the optimizer's state isn't in it.
"""

import shlex
import sys

from keras_diffusion import cli, runs
from keras_diffusion.errors import UserError


def parse(arguments):
    """The command line."""
    parser = cli.Parser(prog="restore.py", description=__doc__)
    parser.add_argument(
        "file",
        nargs="?",
        type=cli.name,
        metavar="FILE.onnx",
        help="(the model that comes with the package)",
    )
    parser.add_argument("--out", type=cli.name, required=True, help="folder of the run, a new one")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    run = runs.Run(options.out)
    if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
        raise UserError(f"--out: expected a new folder, got {run.folder}, which is there")
    cli.need("onnxruntime", extra="onnx")
    cli.need("onnx", "tf2onnx", extra="export")
    from keras_diffusion.exporting import restorable

    file = restorable.open_file(options.file)  # before TensorFlow is loaded
    cli.need("tensorflow", "filelock", extra="train")
    cli.load_tensorflow()
    from keras_diffusion.exporting import restore

    restore.make_run(file, run, command=shlex.join(["python", *sys.argv]))
    print(f"run: {run.folder}")
    return 0


if __name__ == "__main__":
    cli.run(main)
