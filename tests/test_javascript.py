"""sampler.onnx draws the same images in JavaScript. Needs Node and npm; the packages are named below."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet

import keras_diffusion as kd
from keras_diffusion.exporting import convert
from keras_diffusion.sampling import onnx_model

# One without a GPU's libraries, which would be fetched from elsewhere; and the one for browsers, in WebAssembly.
PACKAGES = ("onnxruntime-node", "onnxruntime-web")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node isn't installed: what sampler.onnx draws in JavaScript is not tested")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES],
        cwd=folder,
        env={**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = kd.DiffusionModel(make_unet(num_classes=NUM_CLASSES), kd.linear_schedule(50))
    folder = tmp_path_factory.mktemp("js") / "export"
    convert.convert(model, folder, training={}, say=lambda line: None)
    return folder / "sampler.onnx"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_same_images(packages, file, repo, package):
    out = packages / f"{package}.bin"
    done = subprocess.run(
        ["node", repo / "tests" / "sample.mjs", package, file, out],
        cwd=packages,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == ["5", *map(str, IMAGE_SHAPE)]
    images = np.fromfile(out, "<f4").reshape(5, *IMAGE_SHAPE)
    expected = onnx_model.load(file).sample([0, 1, 1, 2, 3], guidance_scale=3.0, seed=2**40 + 7)
    assert np.abs(images - expected).max() < 1e-4


def documented(repo, language):
    """The code around sampler.onnx in docs/shipping.md in a language."""
    blocks = re.findall(
        rf"```{language}\n(.*?)```", (repo / "docs" / "shipping.md").read_text(), re.DOTALL
    )
    (code,) = [block for block in blocks if "sampler.onnx" in block]
    return code


def test_the_documented_javascript(packages, file, repo):
    shutil.copy(file, packages / "sampler.onnx")
    show = "\nconsole.log(...images.dims, images.data.reduce((a, b) => a + b));\n"
    (packages / "documented.mjs").write_text(documented(repo, "js") + show)
    done = subprocess.run(["node", "documented.mjs"], cwd=packages, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    *dims, total = map(float, done.stdout.split())
    assert dims == [3, *IMAGE_SHAPE]
    expected = onnx_model.load(file).sample([0, 1, 2], guidance_scale=5.0)
    assert abs(total - expected.sum()) < 1e-2


def test_the_documented_python(file, repo, monkeypatch):
    monkeypatch.chdir(file.parent)
    names = {}
    exec(documented(repo, "python"), names)
    expected = onnx_model.load(file).sample([0, 1, 2], guidance_scale=5.0)
    assert np.abs(names["images"] - expected).max() < 1e-6
