"""Draws images with an exported model, on NumPy and onnxruntime alone; the same as `python -m keras_diffusion.sampling`.

python export/sample.py [FILE.onnx] --labels 0,1,2 --per-label 10 --sampler ddim --steps 20 --guidance 5 --seed 0 --out digits.png
"""

import pathlib
import sys

try:
    from keras_diffusion import cli
except ModuleNotFoundError:  # not installed: this file stands in its repository
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from keras_diffusion import cli

from keras_diffusion.sampling.__main__ import main

if __name__ == "__main__":
    cli.run(main)
