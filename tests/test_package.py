"""What importing the package does and doesn't do, each in a process of its own."""

import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import keras_diffusion
from keras_diffusion import extras, versions


def python(code):
    """Standard output of a fresh process."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_versions_are_of_what_is_here_under_whichever_name(monkeypatch):
    found = versions.of(("numpy", "PIL", "no-such-package"))
    assert (
        found["keras_diffusion"] == keras_diffusion.__version__ and found["numpy"] == np.__version__
    )
    assert found["PIL"] == metadata.version("pillow") and "no-such-package" not in found
    # onnxruntime-gpu brings onnxruntime, which needn't be loaded.
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    gpu = {"onnxruntime": ["onnxruntime-gpu"]}
    monkeypatch.setattr(versions.metadata, "packages_distributions", lambda: gpu)
    monkeypatch.setattr(
        versions.metadata, "version", lambda name: {"onnxruntime-gpu": "1.31"}[name]
    )
    monkeypatch.setattr(versions.metadata, "PackageNotFoundError", KeyError)
    assert versions.of(("onnxruntime",))["onnxruntime"] == "1.31"


def test_importing_it_loads_neither_tensorflow_nor_keras():
    code = "import sys, keras_diffusion.sampling, keras_diffusion.data, keras_diffusion.course; print(*sys.modules)"
    loaded = set(python(code))
    assert "keras_diffusion.sampling" in loaded
    assert not loaded & {"tensorflow", "keras", "matplotlib", "mlxtend", "tensorflow_datasets"}


@pytest.mark.parametrize(
    "imports",
    [
        "import keras, keras_diffusion",
        "import keras_diffusion, keras",
        "from keras_diffusion import DiffusionModel; import keras",
        "import keras_diffusion; keras_diffusion.unet; import keras",
        # Programs look whether Keras is there before they load it; TensorFlow does.
        "import importlib.util, keras_diffusion; importlib.util.find_spec('keras'); import keras",
    ],
)
def test_keras_knows_our_classes_whichever_is_imported_first(imports):
    names = [
        "DiffusionModel",
        "BatchNorm",
        "OneHot",
        "Precondition",
        "TimeFeatures",
        "gelu",
        "Muon",
    ]
    code = (
        f"{imports}\n"
        f"names = {names}\n"
        "print(*(keras.saving.get_registered_object(f'keras_diffusion>{n}').__name__ for n in names))"
    )
    assert python(code) == names


def test_importing_the_networks_first_works_too():
    assert python("from keras_diffusion.nn import unet; print(unet.__name__)") == ["unet"]


def test_every_public_name_is_there():
    assert set(keras_diffusion.__all__) <= set(dir(keras_diffusion))
    for name in keras_diffusion.__all__:
        assert getattr(keras_diffusion, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        keras_diffusion.nothing  # noqa: B018


def test_a_name_whose_packages_are_missing_says_what_to_install():
    code = """
import sys
import keras_diffusion as kd
sys.modules["keras"] = None  # as if it weren't installed
try:
    kd.unet
except ModuleNotFoundError as error:
    print(error, error.__cause__, error.__suppress_context__, sep="|")
"""
    said = " ".join(python(code))
    advice = extras.advice("train")
    assert said == f"unet: expected keras to be installed, found none: {advice}|None|True"


def test_what_to_install_is_a_command_that_works_where_it_is_typed(tmp_path, monkeypatch):
    """From the clone, from beside it, and without one: the package is in no registry."""
    root = tmp_path / "clone"
    (root / "keras_diffusion").mkdir(parents=True)
    monkeypatch.setattr(extras, "__file__", str(root / "keras_diffusion/extras.py"))
    monkeypatch.chdir(root)
    assert extras.advice("onnx") == 'pip install ".[onnx]" in a clone of keras-diffusion'
    (root / "pyproject.toml").write_text('name = "another"')
    assert "in a clone of keras-diffusion" in extras.advice("onnx")
    (root / "pyproject.toml").write_text('name = "keras-diffusion"')
    assert extras.advice("onnx") == 'pip install -e ".[onnx]"'
    monkeypatch.chdir(root / "keras_diffusion")
    assert extras.advice("onnx") == 'pip install -e "..[onnx]"'
    far = tmp_path / "/".join("abcdefgh" * 8)
    far.mkdir(parents=True)
    monkeypatch.chdir(far)
    assert extras.advice("onnx") == f'pip install -e "{root}[onnx]"'
