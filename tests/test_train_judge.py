"""scripts/train_judge.py: a judge is trained, says what it is, and isn't written where it reads too badly."""

import pathlib

import keras
import numpy as np
import pytest
import samples

from keras_diffusion import data, settings
from keras_diffusion.data import sources
from keras_diffusion.evaluation import classifier, joining
from keras_diffusion.evaluation.judge import SHIPPED
from keras_diffusion.sampling import onnx_model
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


@pytest.fixture
def train(python, file):
    """Runs train_judge.py on `file`."""

    def run(*arguments, width="8"):
        size = [] if width is None else ["--width", width]
        words = ("--data", file, *size, "--out", file.parent / "judge.onnx", *arguments)
        return python.run(ROOT / "scripts" / "train_judge.py", *words, cwd=file.parent)

    return run


def test_a_judge_reads_what_it_says_and_says_how_it_was_made(train, file):
    done = train("--epochs", "20", "--at-least", "0.9")
    assert done.returncode == 0, done.stderr
    judge, loaded = Classifier(file.parent / "judge.onnx"), data.load(file)
    logits, features = judge(loaded.x_test.astype(np.float32) / 255)
    assert features.shape == (24, 32) and judge.num_classes == loaded.num_classes
    assert np.mean(logits.argmax(axis=1) == loaded.y_test) == judge.says["test_accuracy"] >= 0.9
    assert judge.says["recipe"] == {
        "epochs": 20, "flip": False, "width": 8, "seed": 0, "precision": "float32",
    }  # fmt: skip
    assert judge.says["data"]["sha256"] == loaded.identity()["sha256"]
    assert judge.sha256 in done.stdout and "Epoch 20/20" in done.stdout


@pytest.mark.parametrize("policy", settings.PRECISIONS[1:])
def test_a_judge_trained_in_16_bits_is_one_of_float32(images, policy, monkeypatch):
    x0, labels = images
    x0, labels = np.tile(x0, (13, 1, 1, 1)), np.tile(labels, 13)
    begun = keras.config.dtype_policy().name
    made = {"num_classes": int(labels.max()) + 1, "epochs": 20, "width": 8}
    built, build = [], classifier.build

    def building(*args, **kwargs):
        built.append(build(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(classifier, "build", building)
    judge = classifier.train(x0, labels, precision=policy, **made)
    assert keras.config.dtype_policy().name == begun == "float32"
    trained, kept = ({layer.compute_dtype for layer in one.layers} for one in built)
    assert trained == {policy.removeprefix("mixed_"), "float32"} and kept == {"float32"}
    assert judge is built[1] and classifier.hits(judge, x0, labels).mean() >= 0.9


@pytest.fixture
def parts(file):
    """Three classifiers of those images, in files a.onnx, b.onnx and c.onnx, that agree on little."""
    names = list(data.load(file).class_names)
    says = samples.judge_says(class_names=names)
    for k, name in enumerate("abc"):
        one = samples.judged(says, classes=len(names), seed=k)
        (file.parent / f"{name}.onnx").write_bytes(one)
    return [Classifier(file.parent / f"{name}.onnx") for name in "abc"]


def test_joined_classifiers_give_the_mean_of_their_probabilities(train, file, parts):
    """Where the first is sure, its own."""
    done = train("--join", "a.onnx,b.onnx,c.onnx", width=None)
    assert done.returncode == 0, done.stderr
    whole, loaded = Classifier(file.parent / "judge.onnx"), data.load(file)
    images = 2 * np.random.default_rng(0).random((200, *loaded.image_shape), dtype=np.float32)
    each = [part.probabilities(images) for part in parts]
    sure = each[0].max(axis=1, keepdims=True) >= joining.SURE
    assert np.abs(each[0] - each[1]).max() > 0.9 and 20 < sure.sum() < 180
    wanted = np.where(sure, each[0], np.mean(each, axis=0))
    np.testing.assert_allclose(whole.probabilities(images), wanted, atol=1e-6)
    logits, features = whole(images)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(features, parts[0](images)[1])
    for some in (sure[:, 0], ~sure[:, 0]):  # none is doubted, or all are
        np.testing.assert_allclose(whole.probabilities(images[some]), wanted[some], atol=1e-6)
    logits, _ = whole(loaded.x_test.astype(np.float32) / 255)
    assert np.mean(logits.argmax(axis=1) == loaded.y_test) == whole.says["test_accuracy"]
    named = whole.says["recipe"]["mean_of"]
    assert [one["sha256"] for one in named] == [part.sha256 for part in parts]
    assert whole.hashes == {whole.sha256, *(part.sha256 for part in parts)}


def test_what_some_find_impossible_stays_possible(file, parts, monkeypatch):
    """float32 has no probability below e^-104: the mean of two is a half where one is sure of it."""
    monkeypatch.setattr(joining, "SURE", 2.0)
    content, _ = joining.join([part.path for part in parts[:2]], data.load(file))
    (file.parent / "both.onnx").write_bytes(content)
    pixels = 1000 * np.eye(64, dtype=np.float32).reshape(64, 8, 8, 1)  # each bright alone
    a, b, both = (
        reads.probabilities(pixels) for reads in (*parts[:2], Classifier(file.parent / "both.onnx"))
    )
    apart = (a.max(axis=1) == 1) & (b.max(axis=1) == 1) & (a.argmax(axis=1) != b.argmax(axis=1))
    assert apart.sum() > 20 and (a[apart] == 0).any()
    np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)


def test_a_judge_that_reads_badly_is_not_written(train, file):
    done = train("--epochs", "1", "--at-least", "1")
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


def test_the_reader_of_digits_reads_each_alike_alone_and_among_others():
    """Whether its second and third classifier have none of the images to read, some, or all."""
    digits = data.load("mnist-5k", notify=lambda text: None)
    images, reader = digits.x_train[::10].astype(np.float32) / 255, onnx_model.load().reader
    assert len(reader.says["recipe"]["mean_of"]) == 3
    probabilities = reader.probabilities(images)
    sure = probabilities.max(axis=1) > 0.9999
    assert 100 < sure.sum() < len(sure) - 20
    for some in (sure, ~sure, np.flatnonzero(sure)[:1], np.flatnonzero(~sure)[:1]):
        found = reader.probabilities(images[some])
        np.testing.assert_allclose(found, probabilities[some], atol=1e-5)


@pytest.mark.skipif(not sources.FASHION_IDX.is_dir(), reason="needs dataset-fashion-mnist")
def test_the_judge_of_clothes_reads_clothes():
    clothes = data.load("fashion_mnist", notify=lambda text: None)
    judge = Classifier(SHIPPED[1])
    logits, _ = judge(clothes.x_test.astype(np.float32) / 255)
    assert np.mean(logits.argmax(axis=1) == clothes.y_test) == judge.says["test_accuracy"]
