"""The reader of noisy images, and guidance where it is in doubt."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet

import keras_diffusion as kd
from keras_diffusion import data, nn, reading, schedules
from keras_diffusion.sampling import guidance

SCHEDULE = schedules.cosine_schedule(100)


@pytest.fixture(scope="module")
def squares():
    """512 images as `ImageData`: a square whose column is its class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, 512)
    images = np.zeros((512, *IMAGE_SHAPE), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row = rng.integers(0, 5)
        image[row : row + 3, 2 * label : 2 * label + 3] = 255
    return data.ImageData(
        name="squares", source="none", x_train=images, y_train=labels, x_test=images[:9],
        y_test=labels[:9], class_names=tuple("abc"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(squares):
    return reading.train(squares, SCHEDULE, epochs=20, seed=3)


def read(reader, squares, t):
    """How sure a reader is of the right class [N], of images noised to t."""
    alpha, sigma = SCHEDULE.at(float(t))
    eps = np.random.default_rng(1).normal(size=squares.x_train.shape)
    xt = (alpha * squares.x_train / 255 + sigma * eps).astype(np.float32)
    logits = reader({"x": xt, "t": np.full(len(xt), t / 100, np.float32)}, training=False)
    return tf.gather(tf.nn.softmax(logits), squares.y_train, batch_dims=1).numpy()


def test_reader_is_sure_of_little_noise_and_knows_nothing_of_pure_noise(trained, squares):
    assert read(trained, squares, 10).mean() > 0.9
    assert 0.2 < read(trained, squares, 100).mean() < 0.45  # one of three
    assert read(trained, squares, 10).mean() > read(trained, squares, 80).mean()


def test_the_same_seed_is_the_same_reader(trained, squares):
    again = reading.train(squares, SCHEDULE, epochs=20, seed=3)
    for ours, theirs in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def student(trained):
    teacher = kd.DiffusionModel(
        make_unet(num_classes=NUM_CLASSES), SCHEDULE, prediction="v", ema_decay=None
    )
    return kd.distill(
        teacher, spacing=[100, 50], guidance_scale=3.0, guidance_interval=(0.3, 0.8), reader=trained
    )


def test_guidance_is_as_strong_as_the_doubt(student, trained, squares):
    x = squares.x_train[:8].astype(np.float32) / 255
    asked = (squares.y_train[:6] + [1, 1, 0, 0, 0, 0]) % NUM_CLASSES  # two aren't what they show
    label = np.array([*asked, 0, NUM_CLASSES], np.int32)  # the last: no class
    t = np.full(8, 0.5, np.float32)
    rows = np.full(8, 3)  # of the teacher's six, at t = 50
    assert student._fine.t[3] == 50
    out = student._guide(tf.constant(x), tf.constant(rows), tf.constant(label)).numpy()
    cond = student.denoise(x, t, label, network=student.teacher).numpy()
    uncond = student.denoise(x, t, 0 * label + NUM_CLASSES, network=student.teacher).numpy()
    logits = trained({"x": x, "t": t}, training=False).numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sure = np.append(p[np.arange(7), label[:7]], 1.0)
    scale = (1 + 2.0 * (1 - sure))[:, None, None, None]
    np.testing.assert_allclose(out, guidance.combine(cond, uncond, scale), atol=1e-4)
    np.testing.assert_allclose(out[7], cond[7], atol=1e-5)
    assert sure[:7].min() < 0.5 < sure[:7].max()


def test_a_student_with_a_reader_is_read_from_its_file(student, squares, tmp_path):
    student.compile(optimizer="adam", run_eagerly=True)
    images, labels = squares.x_train[:24].astype(np.float32) / 255, squares.y_train[:24]
    before = [w.numpy() for w in student.reader.weights]
    student.fit(images, labels, batch_size=24, verbose=0)
    assert all((a == w.numpy()).all() for a, w in zip(before, student.reader.weights, strict=True))
    student.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(student.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert again.evaluate(images, labels, verbose=0) == student.evaluate(images, labels, verbose=0)


def test_readers_tell_what_they_were_given():
    with pytest.raises(ValueError, match="image_shape: expected"):
        nn.reader(num_classes=3, image_shape=(9, 8, 1))
