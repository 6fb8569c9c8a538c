"""scripts/train_judge.py: a judge is trained, says what it is, and isn't written where it reads too badly."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_diffusion import data
from keras_diffusion.data import sources
from keras_diffusion.evaluation.judge import SHIPPED
from keras_diffusion.sampling.onnx_classifier import Classifier

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def file(tmp_path, images):
    """300 training and 24 test images in Keras's layout."""
    x0, labels = images
    pixels = (255 * x0[..., 0]).astype(np.uint8)
    arrays = {"x_test": pixels, "y_test": labels.astype(np.uint8)}
    arrays |= {"x_train": np.tile(pixels, (13, 1, 1)), "y_train": np.tile(arrays["y_test"], 13)}
    np.savez(tmp_path / "squares.npz", **arrays)
    return tmp_path / "squares.npz"


def train(file, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "train_judge.py", "--data", file, "--width", "8",
         "--out", file.parent / "judge.onnx", *arguments],
        cwd=file.parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_judge_reads_what_it_says_and_says_how_it_was_made(file):
    done = train(file, "--epochs", "20", "--at-least", "0.9")
    assert done.returncode == 0, done.stderr
    judge, loaded = Classifier(file.parent / "judge.onnx"), data.load(file)
    logits, features = judge(loaded.x_test.astype(np.float32) / 255)
    assert features.shape == (24, 32) and judge.num_classes == loaded.num_classes
    assert np.mean(logits.argmax(axis=1) == loaded.y_test) == judge.says["test_accuracy"] >= 0.9
    assert judge.says["recipe"] == {"epochs": 20, "flip": False, "width": 8, "seed": 0}
    assert judge.says["data"]["sha256"] == loaded.identity()["sha256"]
    assert judge.sha256 in done.stdout


def test_a_judge_that_reads_badly_is_not_written(file):
    done = train(file, "--epochs", "1", "--at-least", "1")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--at-least" in done.stderr and not (file.parent / "judge.onnx").exists()


@pytest.mark.parametrize(
    "path, name, least", [(SHIPPED[0], "mnist.npz", 0.995), (SHIPPED[1], "fashion_mnist", 0.93)]
)
def test_the_judges_that_come_with_the_package_say_how_well_they_read(path, name, least):
    judge = Classifier(path)
    assert judge.says["data"]["name"] == name and judge.says["data"]["test_count"] == 10_000
    assert judge.says["test_accuracy"] >= least and judge.num_classes == 10
    assert len(set(judge.says["class_names"])) == 10 and path.stat().st_size < 1e6


def test_the_judge_of_digits_reads_digits():
    digits = data.load("mnist-5k", notify=lambda text: None)
    logits, _ = Classifier(SHIPPED[0])(digits.x_train.astype(np.float32) / 255)
    assert np.mean(logits.argmax(axis=1) == digits.y_train) > 0.995


@pytest.mark.skipif(not sources.FASHION_IDX.is_dir(), reason="needs dataset-fashion-mnist")
def test_the_judge_of_clothes_reads_clothes():
    clothes = data.load("fashion_mnist", notify=lambda text: None)
    judge = Classifier(SHIPPED[1])
    logits, _ = judge(clothes.x_test.astype(np.float32) / 255)
    assert np.mean(logits.argmax(axis=1) == clothes.y_test) == judge.says["test_accuracy"]
