"""Matching: what a student draws is brought to real images' features, in mean and covariance, the class among them."""

import dataclasses
import functools
import json
import re
import shutil
import types

import keras
import numpy as np
import onnx
import pytest
import samples
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_small, make_unet, roughen, under_policy

import keras_diffusion as kd
from keras_diffusion import distilling, rates, runs, schedules, settings, student
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import classifier, distances
from keras_diffusion.evaluation.judge import SHIPPED
from keras_diffusion.nn import refining
from keras_diffusion.sampling import loop, onnx_classifier, request
from keras_diffusion.sampling.onnx_classifier import Classifier

T = 100
TIMES = [100, 60, 30]
SCHEDULE = schedules.cosine_schedule(T)


@pytest.fixture(scope="module")
def drawer():
    """A rough network as a model that draws."""
    return kd.DiffusionModel(make_small(), SCHEDULE, prediction="v", ema_decay=None)


def pools():
    """Means over the quarters of an image, and over all of it squared: two groups, 4 and 1."""
    x = inputs = keras.Input(IMAGE_SHAPE)
    quarters = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
    return keras.Model(inputs, [quarters, keras.ops.mean(x**2, axis=(1, 2))])


def make(drawer, images=None, *, rate=1e-3, **options):
    made = kd.match(drawer, pools(), **{"spacing": TIMES, "pool": 48, **options})
    if images is not None:
        made.adapt(*images)
    made.compile(optimizer=keras.optimizers.Adam(rate), run_eagerly=True)
    return made


def known(made, features):
    """A `Matching` that takes these features [N, F] for those of what it draws."""
    made._own_mean.assign(features.mean(axis=0))
    made._own_square.assign(features.T @ features / len(features))
    made._renew(due=tf.constant(True))
    return made


def own_moments(made):
    mean = made._own_mean.numpy()
    return mean, made._own_square.numpy() - np.outer(mean, mean)


def real_moments(made):
    root = made._real_root.numpy()
    return made._real_mean.numpy(), root @ root


@pytest.fixture
def found():
    """Features of 500 images that aren't like real ones: 5, and 3 that stand for the class."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(500, 8)) @ rng.normal(size=(8, 8)) / 3 + rng.normal(size=8)


def test_the_target_has_the_moments_of_real_images_and_is_as_far_as_the_distance(
    drawer, images, found
):
    made = known(make(drawer, images), found)
    target = made._target(tf.constant(found)).numpy()
    mean, covariance = real_moments(made)
    np.testing.assert_allclose(target.mean(axis=0), mean, atol=1e-6)
    np.testing.assert_allclose(np.cov(target, rowvar=False, bias=True), covariance, atol=1e-4)
    own = (found.mean(axis=0), np.cov(found, rowvar=False, bias=True))
    expected = distances.frechet_of_moments(own, (mean, covariance))
    way = ((found - target) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(way, expected, rtol=1e-4)
    np.testing.assert_allclose(made.distance(), expected / len(made.features.outputs), rtol=1e-6)


def test_what_classes_have_of_each_other_counts(drawer, images):
    """Features that are right in all and wrong in each class are as far away as the classes' means, nearly."""
    made = make(drawer, images)
    real = made._joint(images[0], images[1]).numpy()
    labels, features = images[1], real[:, :5]
    shifted = np.where(labels < NUM_CLASSES - 1, labels + 1, 0)  # each class as the next
    known(made, np.concatenate([features, made._scale.numpy()[5:] * np.eye(NUM_CLASSES)[shifted]], axis=1))  # fmt: skip
    means = np.stack([features[labels == k].mean(axis=0) for k in range(NUM_CLASSES)])
    shares = np.bincount(labels, minlength=NUM_CLASSES) / len(labels)
    before = np.roll(means, 1, axis=0)
    between = (shares * ((means - before) ** 2).sum(axis=1)).sum()
    assert between > 0.01
    assert 2 * made.distance() > 0.75 * between


@pytest.mark.parametrize(("distance", "rate"), [(0.0, 4e-5), (0.0123, 1.23e-4), (0.5, 1e-3)])
def test_a_rate_goes_by_how_far_there_is_to_go(distance, rate):
    near = rates.Nearing(keras.optimizers.schedules.PiecewiseConstantDecay([3], [1.0, 0.5]))
    assert float(near(0)) == pytest.approx(1e-3)  # nobody has told it yet
    for again in (near, keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(near))):  # fmt: skip
        again.distance = tf.constant(distance, tf.float64)
        assert float(again(0)) == pytest.approx(rate)
        assert float(again(9)) == pytest.approx(rate / 2)


@pytest.mark.parametrize("changed", ["compiled", "lowered", "loaded"])
def test_a_step_goes_by_the_distance_that_it_finds(drawer, images, changed, tmp_path):
    x0, labels = images

    def step(rate):
        made = make(drawer, images, ema_decay=None)
        made.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=False)
        if changed == "loaded":
            made.save(tmp_path / "model.keras")
            made = keras.models.load_model(tmp_path / "model.keras")
        if changed == "lowered":
            rates.lower(made, 0.5)
        made._distance.assign(7.0)  # of a step that is no more
        made.fit(x0, labels, batch_size=24, verbose=0)
        return made

    by_distance = step(rates.Nearing(share=0.1, least=0.0, most=1.0))
    known = step(0.1 * by_distance.distance())
    assert 0.01 < by_distance.distance() < 7
    for ours, theirs in zip(by_distance.weights, known.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    moved = zip(known.network.weights, drawer.network.weights, strict=True)
    assert max(np.abs(a - b).max() for a, b in moved) > 1e-3


@pytest.mark.parametrize(
    ("optimizer", "given", "rate", "said"),
    [
        ("muon", None, None, "by the distance, 0.0002 now"),
        ("muon", 0.5, 0.5, "0.5"),
        ("adam", None, 2e-5, "2e-05"),
    ],
)
def test_a_rate_that_is_not_given_goes_by_the_distance(optimizer, given, rate, said):
    asked = student.Asked(times=(300.0,), match=("a",), optimizer=optimizer, rate=given, pool=250)
    model, told = types.SimpleNamespace(distance=lambda: 0.02, pool=300), []
    settled = distilling._settled(asked, model, told.append)
    assert settled == dataclasses.replace(asked, rate=rate)
    assert told == [
        f"distance of what RUN draws from real images: 0.02 times their variance; rate: {said}"
    ]
    open_pool = dataclasses.replace(asked, pool=None)
    assert distilling._settled(open_pool, model, told.append).pool == 300


def test_the_gradient_is_that_of_the_distance(drawer, images, found):
    made = known(make(drawer, images), found)
    mean, covariance = real_moments(made)

    def distance(features):
        own = (features.mean(axis=0), np.cov(features, rowvar=False, bias=True))
        return distances.frechet_of_moments(own, (mean, covariance))

    x = tf.constant(found)
    with tf.GradientTape() as tape:
        tape.watch(x)
        away = x - tf.stop_gradient(made._target(x))
        loss = tf.reduce_mean(tf.reduce_sum(away**2, axis=1))
    ours = tape.gradient(loss, x).numpy()
    for i, j in ((0, 0), (7, 3), (499, 7)):
        step = np.zeros_like(found)
        step[i, j] = 1e-3
        slope = (distance(found + step) - distance(found - step)) / 2e-3
        # The second tolerance is for the ridge, where classes sum to 1.
        np.testing.assert_allclose(ours[i, j], slope, rtol=1e-3, atol=2e-5)


def test_the_moments_are_those_of_what_is_remembered(drawer, images, found):
    """In the place of what the same noises' images had before, round and round, batches of any size."""
    made = make(drawer, images)
    remembered = made._remembered.numpy()
    for batch in np.split(found[:180], [20, 37, 60, 100, 120]):  # of a pool of 48
        begin = int(made._next.numpy())
        for row, features in enumerate(batch):  # the last has some noises twice
            remembered[(begin + row) % 48] = features
        made._remember(tf.constant(batch))
    assert made._next.numpy() == 180 % 48
    np.testing.assert_array_equal(made._remembered.numpy(), remembered)
    mean, covariance = own_moments(made)
    np.testing.assert_allclose(mean, remembered.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(remembered.T, bias=True), atol=1e-5)


def test_a_noise_and_its_class_are_the_same_in_every_round(drawer, images):
    made = make(drawer, images, pool=250)
    assert made.pool == 300  # in hundreds
    every = made._noises(tf.constant(0, tf.int64), tf.constant(300)).numpy()
    labels = made._classes(tf.constant(0, tf.int64), tf.constant(300)).numpy()
    assert len(np.unique(every[:, 0, 0, 0])) == 300
    for begin, count in ((0, 7), (95, 10), (199, 100), (290, 45)):
        rows = (begin + np.arange(count)) % 300
        asked = tf.constant(begin, tf.int64), tf.constant(count)
        np.testing.assert_array_equal(made._noises(*asked).numpy(), every[rows])
        np.testing.assert_array_equal(made._classes(*asked).numpy(), labels[rows])


def test_a_step_goes_to_where_what_is_remembered_belongs(drawer, images):
    """Its gradient is that of a regression; what it says is how far the features are from where they themselves belong."""
    x0, labels = images
    made = make(drawer, images)
    made.fit(x0, labels, batch_size=24, epochs=1, verbose=0)  # so that the second half is next
    roughen(made.network, seed=5)
    begin, count = tf.constant(24, tf.int64), tf.constant(24)
    noise, label = made._noises(begin, count), made._classes(begin, count)
    goal = made._target(tf.constant(made._remembered.numpy()[24:], tf.float64))

    def way(found, target):
        return tf.reduce_mean(tf.reduce_sum((found - target) ** 2, axis=1))

    with tf.GradientTape() as tape:
        found = made._joint(made._draw(made.network, noise, label), label)
        loss = way(found, goal)
    expected = tape.gradient(loss, made.network.trainable_variables)
    says = way(found, made._target(found)).numpy()
    step = tf.constant(1, tf.int64)
    with tf.GradientTape() as tape:
        loss = made._loss(made.network, tf.constant(x0), label, step=step, training=True)
    given = tape.gradient(loss, made.network.trainable_variables)
    np.testing.assert_allclose(loss, says, rtol=1e-5)
    assert abs(float(way(found, goal)) - says) > 1e-3
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_gradient_goes_back_through_the_last_calls_alone(drawer, images, monkeypatch):
    """As if another network, of the same weights, made the calls before."""

    def gradient(through, others=0):
        made = make(drawer, images, through=through)
        other, denoise, calls = keras.models.clone_model(made.network), made.denoise, []
        other.set_weights(made.network.get_weights())

        def call(*inputs, network):
            calls.append(network)
            return denoise(*inputs, network=other if len(calls) <= others else network)

        monkeypatch.setattr(made, "denoise", call)
        noise = made._noises(tf.constant(0, tf.int64), tf.constant(6))
        with tf.GradientTape() as tape:
            drawn = made._draw(made.network, noise, tf.zeros([6], tf.int32))
            loss = tf.reduce_sum(drawn**2)
        return drawn, tape.gradient(loss, made.network.trainable_variables)

    every = gradient(None)
    for through in (3, 2, 1):
        drawn, found = gradient(through)
        expected = gradient(None, others=3 - through)
        np.testing.assert_array_equal(drawn, every[0])
        for ours, theirs, whole in zip(found, expected[1], every[1], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            assert np.allclose(ours, whole, rtol=1e-5) == (through == 3) or not np.any(whole)


@pytest.mark.parametrize("pool, every", [(500, 6), (300, 4), (48, 1)])
def test_the_map_is_found_anew_four_times_a_round_of_the_pool_at_most(drawer, images, pool, every):
    x0, labels = images
    made, maps = make(drawer, images, pool=pool), []
    np.testing.assert_array_equal(made._map.numpy(), made._affine()[0].numpy())
    for _ in range(12):
        made.fit(x0, labels, batch_size=24, verbose=0)  # one step
        maps.append(made._map.numpy())
    moved = [not np.array_equal(a, b) for a, b in zip(maps[:-1], maps[1:], strict=True)]
    assert [k for k, new in enumerate(moved, 1) if new] == list(range(every, 12, every))
    made._map.assign(0 * maps[0])
    made.evaluate(x0, labels, batch_size=3, verbose=0)  # of steps -1, -4, ...
    assert not made._map.numpy().any()


def test_the_pools_default_grows_with_the_features(drawer):
    assert kd.match(drawer, pools(), spacing=TIMES).pool == 2000
    x = keras.Input(IMAGE_SHAPE)
    wide = keras.Model(x, keras.ops.tile(keras.layers.Flatten()(x), (1, 10)))
    size = 10 * np.prod(IMAGE_SHAPE) + 3
    assert kd.match(drawer, wide, spacing=TIMES).pool == -(-20 * size // 100) * 100


def test_a_small_pool_is_far_from_itself_without_end(drawer, images):
    """Why it has to be large: of equally wide features of a total variance of 1, F/(4 * pool) is between it and all noises."""
    size = 8
    for count in (100, 1600):
        made, rng, ways = make(drawer, images), np.random.default_rng(0), []
        made._real_mean.assign(np.zeros(size))
        made._real_root.assign(np.eye(size) / np.sqrt(size))
        for _ in range(60):
            features = rng.normal(size=(count, size)) / np.sqrt(size)
            off = features - features.mean(axis=0)
            known(made, off)
            away = off - made._target(tf.constant(off)).numpy()
            ways.append((away**2).sum(axis=1).mean())
        np.testing.assert_allclose(np.mean(ways), (size + 1) / (4 * count), rtol=0.1)


def test_it_trains_what_will_be_drawn(drawer):
    made = make(drawer)
    labels = np.array([0, 1, 2, 0])
    asked = request.make(labels, image_shape=IMAGE_SHAPE, num_classes=NUM_CLASSES)
    noise = asked.start(made._plan)
    ours = made._draw(made.network, tf.constant(noise), tf.constant(labels, tf.int32)).numpy()
    np.testing.assert_allclose(ours, made.student().sample(labels), atol=1e-5)
    run = loop.runner(
        lambda *call: drawer.denoise(*call).numpy(), null_label=NUM_CLASSES, clip=True
    )
    x, _ = run(made._plan, noise, 0 * noise, asked, weights=np.ones(3), noise=np.zeros(3))
    np.testing.assert_allclose(ours, np.clip(x, 0, 1), atol=1e-5)


def test_moments_are_those_of_real_features_with_some_classes_hidden(drawer, images):
    made = make(drawer, images, label_dropout=0.25)
    x0, labels = images
    quarters, square = (np.asarray(f, np.float64) for f in made.features(x0, training=False))
    quarters, square = (f / np.sqrt(f.var(axis=0).sum()) for f in (quarters, square))
    class_scale = np.sqrt(10 * 2)  # ten times as much as both groups
    seen = np.concatenate([quarters, square, class_scale * np.eye(NUM_CLASSES)[labels]], axis=1)
    hidden = np.where(np.arange(8) < 5, seen, 0)
    mean = 0.75 * seen.mean(axis=0) + 0.25 * hidden.mean(axis=0)
    second = 0.75 * seen.T @ seen / 24 + 0.25 * hidden.T @ hidden / 24
    found_mean, found_covariance = real_moments(made)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found_covariance, second - np.outer(mean, mean), atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_moments_begin_as_those_of_what_is_drawn(drawer, images, dropout):
    made = make(drawer, images, label_dropout=dropout)
    asked = tf.constant(0, tf.int64), tf.constant(48)
    labels, noise = made._classes(*asked), made._noises(*asked)
    drawn = made._draw(made.sampling_network, noise, labels)
    seen = np.concatenate([np.asarray(f) for f in made.features(drawn, training=False)], axis=1)
    real = np.concatenate([np.asarray(f) for f in made.features(images[0], training=False)], axis=1)
    scale = [1 / np.sqrt(real[:, :4].var(axis=0).sum())] * 4 + [1 / real[:, 4].std()]
    known = np.sqrt(20) * np.eye(NUM_CLASSES + 1)[labels][:, :NUM_CLASSES]
    assert (known.sum(axis=1) == 0).sum() == 48 * dropout
    found = np.concatenate([seen * scale, known], axis=1)
    np.testing.assert_allclose(made._remembered.numpy(), found, atol=1e-5)
    mean, covariance = own_moments(made)
    np.testing.assert_allclose(mean, found.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(found, rowvar=False, bias=True), atol=1e-5)


def test_one_feature_without_classes_is_matched(images):
    network = make_unet(conditioning="multiply")
    flow = kd.DiffusionModel(network, schedules.flow_schedule(T), prediction="flow", ema_decay=None)
    x = keras.Input(IMAGE_SHAPE)
    brightness = keras.Model(x, keras.ops.mean(x, axis=(1, 2)))
    made = kd.match(flow, brightness, spacing=TIMES, pool=30)
    made.adapt(images[0])
    assert own_moments(made)[1].shape == (1, 1)
    assert own_moments(made)[1] > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_block_has_the_classes_as_often_as_real_images_have(drawer, images, dropout):
    x0, _ = images
    labels = np.repeat([0, 1, 2], [14, 7, 3])
    made = make(drawer, (x0, labels), label_dropout=dropout, pool=4000)
    shares = (1 - dropout) * np.array([14, 7, 3]) / 24
    expected = 100 * np.append(shares, dropout)
    every = made._classes(tf.constant(0, tf.int64), tf.constant(4000)).numpy().reshape(40, 100)
    assert len(np.unique(every, axis=0)) > 30  # in an order of its own
    counts = np.array([np.bincount(block, minlength=NUM_CLASSES + 1) for block in every])
    # A share's ends fall between the same two points, or between the next.
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.3)
    even = make(drawer, (x0, labels), pool=24)._classes(tf.constant(0, tf.int64), tf.constant(24))
    np.testing.assert_array_equal(np.sort(even), labels)


def test_training_asks_no_label_of_its_images(drawer, images):
    x0, labels = images
    both = make(drawer, images), make(drawer, images)
    for model, given in zip(both, (labels, labels[::-1].copy()), strict=True):
        model.fit(x0, given, batch_size=24, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(*(model.weights for model in both), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_integer_pixels_are_brought_to_the_unit_interval(drawer, images):
    x0, labels = images
    pixels = np.round(255 * x0).astype(np.uint8)
    whole, part = make(drawer, (pixels, labels)), make(drawer, (pixels / np.float32(255), labels))
    for ours, theirs in zip(real_moments(whole), real_moments(part), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_training_brings_images_closer_and_remembers_how_they_are(images):
    x0, labels = images
    network = make_unet(num_classes=NUM_CLASSES)  # it has to be able to
    draws = kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)
    made = make(draws, images, label_dropout=0.0, ema_decay=None)
    made.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    many = np.arange(300) % NUM_CLASSES

    def distance(model):
        drawn = model.sample(many, seed=9)
        some, real = (
            np.concatenate([np.asarray(f) for f in made.features(x, training=False)], axis=1)
            for x in (drawn, x0)
        )
        return distances.frechet(some, real)

    before = distance(made.student())
    statistics = [w.numpy() for w in made.network.weights if "moving" in w.path]
    made.fit(x0, labels, batch_size=24, epochs=40, verbose=0)
    assert distance(made.student()) < 0.5 * before
    held = [w.numpy() for w in made.network.weights if "moving" in w.path]
    assert all((a == b).all() for a, b in zip(statistics, held, strict=True))
    noise = np.random.default_rng(1).normal(size=(300, *IMAGE_SHAPE)).astype(np.float32)
    drawn = made._draw(made.network, tf.constant(noise), tf.constant(many, tf.int32))
    now = made._joint(drawn, tf.constant(many, tf.int32)).numpy().mean(axis=0)
    np.testing.assert_allclose(made._own_mean.numpy(), now, atol=0.15)


def test_a_network_of_mixed_precision_is_matched(images):
    """The moments, and the classes' shares among them, stay in double precision."""

    def draws():
        network = make_unet(num_classes=NUM_CLASSES)
        return kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)

    half = under_policy("mixed_bfloat16", draws)
    made = make(half, images)
    made.compile(optimizer=keras.optimizers.Adam(1e-3))
    found = made.fit(*images, batch_size=24, epochs=2, verbose=0).history["loss"]
    assert "bfloat16" in {layer.compute_dtype for layer in made.network.layers}
    assert np.isfinite(found).all()
    shares = made._classes(tf.constant(0, tf.int64), tf.constant(48)).numpy()
    np.testing.assert_array_equal(np.bincount(shares), [16, 16, 16])


def test_looking_changes_nothing(drawer, images):
    made = make(drawer, images)
    before = made.get_weights()
    assert made.evaluate(*images, batch_size=24, verbose=0) > 0
    after = made.get_weights()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_matching_goes_on_from_a_file_as_if_nothing_had_happened(drawer, images, tmp_path):
    x0, labels = images
    whole, first = make(drawer, images), make(drawer, images)
    for model in (whole, first):
        model.fit(x0, labels, batch_size=24, epochs=2, verbose=0, shuffle=False)
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    assert type(second) is kd.Matching and second.sampling == first.sampling
    second.run_eagerly = True
    for model in (whole, second):
        model.fit(x0, labels, batch_size=24, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_students_own_times_are_taken_and_networks_without_classes_are_matched(images):
    network = make_unet(conditioning="multiply")
    flow = kd.DiffusionModel(network, schedules.flow_schedule(T), prediction="flow", ema_decay=None)
    student = make(flow).student()
    made = kd.match(student, pools(), pool=30)
    assert made.times == TIMES
    made.adapt(*images)  # labels are of no use here
    made.compile(optimizer="adam", run_eagerly=True)
    found = made.fit(images[0], batch_size=24, verbose=0).history["loss"]
    assert np.isfinite(found).all()
    assert made.student().sample(num_images=2).shape == (2, *IMAGE_SHAPE)


def test_groups_of_features_count_as_told(drawer, images, tmp_path):
    """By the variance that they are brought to: in all that is compared, and where a file goes on."""
    made = make(drawer, images, weights=[2, 9])
    made.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for model, expected in ((make(drawer, images), (1, 1)), (made, (2, 9)), (again, (2, 9))):
        variance = model._joint(images[0], images[1]).numpy().var(axis=0)
        found = variance[:4].sum(), variance[4:5].sum()
        assert found == pytest.approx(expected, rel=1e-4)
        shares = np.bincount(images[1], minlength=NUM_CLASSES)[:NUM_CLASSES] / len(images[1])
        known = 10 * sum(expected)
        np.testing.assert_allclose(variance[5:], known * shares * (1 - shares))
    assert again.group_weights == [2, 9]


def test_what_cannot_be_matched_is_refused(drawer, images):
    with pytest.raises(ValueError, match="pool: expected a positive integer, got 0"):
        make(drawer, pool=0)
    for weights in ([1], [1, 0], [1, float("inf")]):
        with pytest.raises(ValueError, match="weights: expected 2 numbers above 0, got"):
            make(drawer, weights=weights)
    with pytest.raises(ValueError, match="through: expected a positive integer, got 1.5"):
        make(drawer, through=1.5)
    with pytest.raises(ValueError, match="through: expected at most the 3 calls, got 4"):
        make(drawer, through=4)
    with pytest.raises(ValueError, match="images: expected more than the 8 features, got 8"):
        make(drawer, (images[0][:8], images[1][:8]))
    x0, labels = images
    for given, message in (
        ((x0,), "labels: expected one integer an image, got images alone"),
        ((x0, labels[:3]), "labels: expected one integer an image, got 3 for 24"),
        ((x0, labels + 5), "labels: expected 0..3, got 5..7; 3 means no class"),
        ((255 * x0, labels), "images: expected 0..1, got 0..2"),
    ):
        with pytest.raises(ValueError, match=message):
            make(drawer, given)
    with pytest.raises(ValueError, match="pool: expected more than the 8 features, got 8"):
        make(drawer, images, pool=8)
    with pytest.raises(ValueError, match="distance: expected a model that was adapted"):
        kd.match(drawer, pools(), spacing=TIMES).distance()
    with pytest.raises(ValueError, match="fit: expected a model that was adapted"):
        make(drawer).fit(*images, verbose=0)
    denoiser = kd.DiffusionModel(
        make_unet(conditioning=None), schedules.denoiser_schedule(0.5), prediction="x0"
    )
    with pytest.raises(ValueError, match="model: expected one that draws from noise"):
        kd.match(denoiser, pools())


@pytest.mark.parametrize("path", SHIPPED)
def test_a_classifiers_file_becomes_the_keras_model_that_it_was(path):
    shape = (28, 28, 1)
    x = np.random.default_rng(0).random((5, *shape), np.float32)
    model = classifier.load(path)
    logits, features = Classifier(path)(x)
    found = model(x, training=False)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["features"], features, atol=1e-4)
    seen = classifier.statistics(model, model)(x, training=False)
    assert len(seen) == 12
    np.testing.assert_allclose(seen[4], features, atol=1e-4)
    np.testing.assert_array_equal(seen[11], seen[5])
    seen = classifier.statistics(model, last=[model])(x, training=False)
    assert len(seen) == len(classifier.weights(1, 9, last=1)) == 7
    np.testing.assert_array_equal(seen[6], seen[4])
    assert classifier.weights(1, 9, last=1)[4:] == [9, 1, 9]


def test_a_thinned_classifier_goes_without_a_fifth_of_what_goes_from_block_to_block():
    x = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
    model = classifier.load(SHIPPED[0])
    h, whole, left_out = x, classifier.thinned(model, 3), {}
    for layer in model.layers[1:]:
        if layer.name in ("dropout1", "dropout2"):
            k = int(layer.name[-1])
            given = next(one.kernel for one in whole.layers if one.name.startswith(f"block{k}"))
            found = np.abs(given).max(axis=(0, 1, 3)) > 0
            left_out[k] = (~found).sum() / len(found)
            h = h * found / found.mean()
        else:
            h = layer(h, training=False) if layer.name != "dropout" else h
        if layer.name == "features":
            break
    assert [left_out[k] for k in (1, 2)] == [pytest.approx(0.2, abs=0.02)] * 2
    seen = whole(x, training=False)["features"]
    np.testing.assert_allclose(seen, h, atol=1e-4)
    np.testing.assert_array_equal(classifier.thinned(model, 3)(x, training=False)["features"], seen)
    other = classifier.thinned(model, 4)(x, training=False)["features"]
    assert np.abs(other - seen).max() > 0.01
    np.testing.assert_array_equal(model.get_weights()[0], classifier.load(SHIPPED[0]).get_weights()[0])  # fmt: skip


def test_a_classifier_computes_in_keras_policy_and_its_statistics_are_float32():
    x = np.random.default_rng(0).random((50, 28, 28, 1), np.float32)
    exact = classifier.statistics(classifier.load(SHIPPED[0]))(x, training=False)
    model = under_policy("mixed_bfloat16", lambda: classifier.load(SHIPPED[0]))
    assert "bfloat16" in {layer.compute_dtype for layer in model.layers}
    for ours, theirs in zip(classifier.statistics(model)(x, training=False), exact, strict=True):
        assert ours.dtype == theirs.dtype == "float32"
        apart = np.abs(ours - theirs).max()
        assert 0 < apart < 0.03 * np.abs(theirs).max()


@pytest.fixture(scope="module")
def programs(finished_run):
    """Runs distill.py where there is also `reader.onnx`, which has learned a little."""
    call, folder = finished_run
    train = ("--data", "mnist-5k", "--epochs", "1", "--width", "4", "--out", "reader.onnx")
    call("scripts/train_judge.py", *train)
    return functools.partial(call, "scripts/distill.py"), folder


MATCH = ("run", "--match", "reader.onnx", "--steps", "2", "--epochs", "2")


@pytest.fixture(scope="module")
def matched(programs):
    """Folder of a matched student, with the checkpoints of steps 3 and 4, its last."""
    call, folder = programs
    outcome = call(*MATCH, "--checkpoint-steps", "3")
    assert "times their variance; rate: by the distance, 0.001 now\n" in outcome.stdout
    return folder / "run-distilled"


def test_distill_matches_a_run(programs, matched):
    call, folder = programs
    record = json.loads((matched / "run.json").read_text())
    assert record["status"] == "finished" and record["steps"] == 4
    told = record["distilled"]
    assert told["match"] == ["reader.onnx"] and told["times"] == [300.0, 150.0]
    assert (told["optimizer"], told["batch_size"]) == ("muon", 100)
    assert told["rate"] is None
    rows = (matched / "metrics.csv").read_text().splitlines()[1:]
    risen = float(rows[1].split(",")[3])
    assert risen == pytest.approx(1e-3)  # of images so far away
    assert "teacher_steps" not in told
    assert told["pool"] == 2000
    before, after = (runs.open_model(path / "model.keras") for path in (folder / "run", matched))
    assert type(after) is kd.DiffusionModel and after.sampling["spacing"] == [300.0, 150.0]
    was = before.sample([0, 1, 2], sampler="ddim", spacing=[300, 150], guidance_scale=1.0)
    moved = np.abs(after.sample([0, 1, 2]) - was)
    assert 0 < moved.max() and moved.mean() < 0.02
    more = ("--limit", "200", "--pool", "300", "--through", "1", "--optimizer", "adam")
    outcome = call("run-distilled", "--match", "reader.onnx", "--out", "again", *more)
    reads = Classifier(folder / "reader.onnx").says["test_accuracy"]
    assert f"matched by reader.onnx ({reads:.2%} of its test images read right)\n" in outcome.stdout
    shown = outcome.stderr.replace("\r", "\n")
    assert re.search(r"^adapt: 100%.* 500/500 ", shown, re.MULTILINE)  # 200 real ones, 300 drawn
    told = json.loads((folder / "again/run.json").read_text())["distilled"]
    assert (told["pool"], told["optimizer"], told["rate"]) == (300, "adam", 2e-5)
    (last,) = (folder / "again/checkpoints").glob("*.keras")
    trained = runs.open_model(last)
    assert trained.pool == 300 and trained.through == 1
    assert type(trained.optimizer) is keras.optimizers.Adam
    assert told["times"] == [300.0, 150.0] and told["epochs"] == 1  # the times that it draws in
    others = ("--spacing", "300,100", "--pool", "30", "--out", "refused")
    outcome = call("run-distilled", "--match", "reader.onnx", *others, status=2)
    assert "RUN has learned to draw at 300,150, which are its times without" in outcome.stdout


@pytest.mark.parametrize(("width", "rate"), [(6, 3e-3), (settings.COPY, 1e-3)])
def test_distill_refines_a_run(programs, matched, width, rate):
    """Each epoch by noises of its own; it goes on where it was stopped, in the midst of a pool."""
    call, folder = programs
    out = f"refined-{width}"
    words = ("run-distilled", "--match", "reader.onnx", "--refine", str(width), "--out", out)
    words += ("--match-last", "reader.onnx", "--emphasis", "4")
    words += ("--thinned", "2") if width == 6 else ()
    more = ("--limit", "300", "--pool", "300", "--epochs", "3", "--checkpoint-steps", "4")
    outcome = call(*words, *more)
    assert f"times their variance; rate: {rate:g}\n" in outcome.stdout
    shown = outcome.stdout.replace("\r", "\n")
    said = re.findall(
        r"^epoch (\d): distance \S+ times real images' variance by new noises, ",
        shown,
        re.MULTILINE,
    )
    assert said == ["2", "3"], shown
    assert "2 more pools, one an epoch; that of the first took " in shown
    record = json.loads((folder / out / "run.json").read_text())
    told = record["distilled"]
    assert (told["refine"], told["rate"], told["times"]) == (width, rate, [300.0, 150.0])
    assert told["match_last"] == ["reader.onnx"]
    assert told["refiner"] == {"width": width, "below": 150.0}
    assert record["network"] == "refined_small"
    before, after = (runs.open_model(path / "model.keras") for path in (matched, folder / out))  # fmt: skip
    base, _, refiner = refining.parts(after.network)
    for ours, theirs in zip(base.weights, before.network.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    begun = before.network.get_weights() if width == settings.COPY else [np.zeros(1)]
    assert np.abs(refiner.get_weights()[-1] - begun[-1]).max() > 0
    checkpoints = sorted((folder / out / "checkpoints").glob("*.keras"))
    assert [path.stem for path in checkpoints] == [
        "step-00000008",
        "step-00000009",
    ]  # of epochs of three
    weights = runs.open_model(checkpoints[0]).group_weights
    assert weights == [1, 1, 1, 1, 4, 1, 4] + ([4] if width == 6 else [])
    checkpoints[1].unlink()
    (folder / out / "model.keras").unlink()
    (folder / out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    for more, was, now in (
        ("--thinned", told["thinned"], "3"),
        ("--match-last", "reader.onnx", "a,b"),
    ):
        refused = call("run-distilled", "--out", out, "--resume", more, now, status=2)
        assert f"{more} was {was} in this run and is {now} now" in refused.stderr
    call("run-distilled", "--out", out, "--resume")
    again = runs.open_model(folder / out / "model.keras")
    for ours, theirs in zip(again.weights, after.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_refiner_computes_in_its_teachers_precision(programs):
    call, folder = programs
    shutil.copytree(folder / "run", folder / "half")
    record = json.loads((folder / "half/run.json").read_text())
    record["settings"]["precision"] = "mixed_bfloat16"
    (folder / "half/run.json").write_text(json.dumps(record))
    asked = ("--steps", "2", "--limit", "300", "--pool", "300", "--epochs", "1", "--refine", "6")
    call("half", "--match", "reader.onnx", *asked, "--out", "half-refined")
    _, _, refiner = refining.parts(runs.open_model(folder / "half-refined/model.keras").network)
    assert refiner.get_layer("enter1").compute_dtype == "bfloat16"
    (last,) = (folder / "half-refined/checkpoints").glob("*.keras")
    (reader,) = (
        one for one in runs.open_model(last).features.layers if isinstance(one, keras.Model)
    )
    assert "bfloat16" in {layer.compute_dtype for layer in reader.layers}


def test_distill_goes_on_with_matching_where_it_was_stopped(programs, matched):
    call, folder = programs
    stopped = folder / "stopped"
    shutil.copytree(matched, stopped)
    (stopped / "checkpoints/step-00000004.keras").unlink()
    (stopped / "model.keras").unlink()
    record = json.loads((stopped / "run.json").read_text())
    old = {**record, "distilled": {**record["distilled"], "window": 2000}}
    del old["distilled"]["version"]
    (stopped / "run.json").write_text(json.dumps({**old, "status": "running"}))
    refused = call("run", "--out", "stopped", "--resume", status=2)
    assert "expected a matching of this version" in refused.stderr
    (stopped / "run.json").write_text(json.dumps({**record, "status": "running"}))
    other = call("run", "--out", "stopped", "--resume", "--optimizer", "adam", status=2)
    assert "--optimizer was muon in this run and is adam now" in other.stderr
    call("run", "--out", "stopped", "--resume", "--optimizer", "muon")
    whole, again = (runs.open_model(path / "model.keras") for path in (matched, stopped))
    for ours, theirs in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("learned", "match", "told"),
    [
        ([300.0, 150.5], ("a",), None),
        ([300.0, 200.0, 100.0], ("a",), "RUN has learned to draw at 300,200,100, which are its times without --steps and --spacing: at 300,150.5 it may begin far worse"),
        ([300.0, 200.0, 100.0], None, None),
        ([300.0, 150.501], ("a",), None),
        (None, ("a",), None),
        (["a", "b"], ("a",), None),
    ],
)  # fmt: skip
def test_a_student_is_told_of_times_that_it_has_not_learned(learned, match, told):
    asked = student.Asked(times=(300.0, 150.5), match=match)
    record = {} if learned is None else {"distilled": {"times": learned}}
    assert student.told_of_times(asked, record) == told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--match reader.onnx --guidance 2", "--guidance: expected none with --match, got 2.0"),
        ("--match reader.onnx --teacher-steps 2", "--teacher-steps: expected none with --match"),
        ("--pool 300", "--pool: expected none without --match, got 300"),
        ("--refine 8", "--refine: expected none without --match, got 8"),
        ("--match-last a,b", "--match-last: expected none without --match, got a,b"),
        ("--match a --thinned 2", "--thinned: expected none without --match-last, got 2"),
        (
            f"--match reader.onnx --match-last {SHIPPED[0]}",
            "--match-last: expected another classifier than evaluate.py's judge",
        ),
        ("--emphasis 9", "--emphasis: expected none without --match, got 9.0"),
        ("--refine copy", "--refine: expected none without --match, got copy"),
        ("--refine sofa", "--refine: expected copy or an integer in 1..1024, got 'sofa'"),
        ("--refine 0", "--refine: expected copy or an integer in 1..1024, got '0'"),
        (
            "--match reader.onnx --refine 8 --through 1",
            "--through: expected none with --refine, whose gradient goes through the last call alone, got 1",
        ),
        ("--optimizer muon", "--optimizer: expected none without --match, got muon"),
        ("--match reader.onnx --optimizer sgd", "--optimizer: invalid choice: 'sgd'"),
        ("--match reader.onnx --pool 30", "--pool: expected more than the 66 features"),
        ("--match gone.onnx", "gone.onnx: expected"),
        (f"--match {SHIPPED[0]}", "--match: expected another classifier than evaluate.py's judge"),
        (f"--match {SHIPPED[1]}", "--match: expected one of class_names"),
        ("--match other.onnx", "--match: expected one of image_shape"),
        ("--match reader.onnx,", "expected"),
        ("--match broken.onnx", "broken.onnx: expected"),
        ("--match joined.onnx", "--match: expected files of one classifier each, got joined.onnx"),
    ],
)
def test_classifiers_that_cannot_match_are_refused(programs, words, message):
    call, folder = programs
    says = samples.judge_says(class_names=samples.DIGITS)
    (folder / "other.onnx").write_bytes(samples.judged(says, classes=10))
    (folder / "broken.onnx").write_bytes(b"no model")
    joined = onnx.load(folder / "reader.onnx")
    says = Classifier(folder / "reader.onnx").says | {"recipe": {"mean_of": []}}
    onnx.helper.set_model_props(joined, {onnx_classifier.KEY: json.dumps(says)})
    onnx.save(joined, folder / "joined.onnx")
    refused = call("run", *words.split(), "--out", "refused", "--limit", "200", status=2)
    assert message in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (folder / "refused").exists()


def test_a_classifier_of_another_build_is_refused(tmp_path):
    """Its metadata may say anything of a graph that isn't `build`'s."""
    says = samples.judge_says(class_names=samples.DIGITS)
    (tmp_path / "judge.onnx").write_bytes(samples.judged(says, classes=10))
    with pytest.raises(UserError, match="expected a classifier of three blocks"):
        classifier.load(tmp_path / "judge.onnx")
