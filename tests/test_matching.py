"""Matching: what a student draws is brought to real images' features, in mean and covariance, the class among them."""

import functools
import json
import shutil

import keras
import numpy as np
import onnx
import pytest
import samples
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet, roughen, under_policy

import keras_diffusion as kd
from keras_diffusion import runs, schedules
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import classifier, distances
from keras_diffusion.evaluation.judge import SHIPPED
from keras_diffusion.sampling import loop, onnx_classifier, request
from keras_diffusion.sampling.onnx_classifier import Classifier

T = 100
TIMES = [100, 60, 30]
SCHEDULE = schedules.cosine_schedule(T)


@pytest.fixture(scope="module")
def drawer():
    """A rough network as a model that draws."""
    network = make_unet(num_classes=NUM_CLASSES)
    return kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)


def pools():
    """Means over the quarters of an image, and over all of it squared: two groups, 4 and 1."""
    x = inputs = keras.Input(IMAGE_SHAPE)
    quarters = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
    return keras.Model(inputs, [quarters, keras.ops.mean(x**2, axis=(1, 2))])


def make(drawer, images=None, *, rate=1e-3, **options):
    made = kd.match(drawer, pools(), **{"spacing": TIMES, "window": 48, **options})
    if images is not None:
        made.adapt(*images)
    made.compile(optimizer=keras.optimizers.Adam(rate), run_eagerly=True)
    return made


def known(made, features):
    """A `Matching` that takes these features [N, F] for those of what it draws."""
    made._own_mean.assign(features.mean(axis=0))
    made._own_covariance.assign(np.cov(features, rowvar=False, bias=True))
    made._map.assign(made._affine())
    return made


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


def test_the_running_averages_reach_back_over_the_window(drawer, found):
    made = known(make(drawer, window=400), found[:100])
    mean, covariance = made._own_mean.numpy(), made._own_covariance.numpy()
    for batch in np.split(found[100:], 4):  # 100 images each
        made._remember(tf.constant(batch))
        off = batch - mean
        mean = 0.75 * mean + 0.25 * batch.mean(axis=0)
        covariance = 0.75 * covariance + 0.25 * off.T @ off / 100
    np.testing.assert_allclose(made._own_mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(made._own_covariance.numpy(), covariance, atol=1e-6)


def test_the_map_is_found_anew_every_four_steps(drawer, images):
    x0, labels = images
    made, maps = make(drawer, images), []
    np.testing.assert_array_equal(made._map.numpy(), made._affine().numpy())
    for _ in range(9):
        made.fit(x0, labels, batch_size=24, verbose=0)  # one step
        maps.append(made._map.numpy())
    moved = [not np.array_equal(a, b) for a, b in zip(maps[:-1], maps[1:], strict=True)]
    assert moved == [False, False, False, True] * 2
    made._map.assign(0 * maps[0])
    made.evaluate(x0, labels, batch_size=3, verbose=0)  # of steps -1, -4, ...
    assert not made._map.numpy().any()


def test_the_running_mean_follows_what_changes(drawer, found):
    """At once, and by all of what it changes, however long the window."""
    made = known(make(drawer, window=10**9), found)
    turn = np.random.default_rng(1).normal(size=(8, 8)) / 4 + np.eye(8)
    now = found @ turn + 0.3
    made._follow(tf.constant(found), tf.constant(now))
    np.testing.assert_allclose(made._own_mean.numpy(), now.mean(axis=0), atol=1e-6)


def test_what_changes_is_what_the_weights_changed_in_four_steps(drawer, images):
    """The mean follows from one A to the next, on the noise of the step, and stands still between."""
    x0, labels = images
    made = make(drawer, images)
    made.window = 10**9  # so that a batch alone changes nothing
    x0, labels = tf.constant(x0), made._classes(tf.constant(24), tf.constant(0, tf.int64))

    def mean(network, step):
        noise = made._noise(x0, tf.constant(step, tf.int64))
        return made._joint(made._draw(network, noise, labels), labels).numpy().mean(axis=0)

    for step in range(9):
        was = made._own_mean.numpy()
        roughen(made.network, seed=step + 1)
        change = mean(made.network, step) - mean(made.before, step)
        assert np.abs(change).max() > 1e-3
        made._loss(made.network, x0, labels, step=tf.constant(step, tf.int64), training=True)
        followed = 1.0 if step % 4 == 0 else 0.0
        np.testing.assert_allclose(made._own_mean.numpy(), was + followed * change, atol=1e-5)
        same = all(
            np.array_equal(a.numpy(), b.numpy())
            for a, b in zip(made.before.weights, made.network.weights, strict=True)
        )
        assert same == (step % 4 == 0)


def test_the_windows_default_grows_with_the_features(drawer):
    assert kd.match(drawer, pools(), spacing=TIMES).window == 2000
    x = keras.Input(IMAGE_SHAPE)
    wide = keras.Model(x, keras.ops.tile(keras.layers.Flatten()(x), (1, 10)))
    assert kd.match(drawer, wide, spacing=TIMES).window == 5 * (10 * np.prod(IMAGE_SHAPE) + 3)


def test_an_uncertain_covariance_asks_for_too_wide_features(drawer, images):
    """Why the window is long: of what is drawn as wide as real images are, it says that it ought to be wider."""
    size = 8

    def excess(window):
        """What A, which should be 1, has too much in the mean."""
        made = make(drawer, images, window=window)
        made._real_root.assign(np.eye(size))
        made._own_covariance.assign(np.eye(size))
        rng, found = np.random.default_rng(0), []
        for _ in range(40):
            for _ in range(window // 50):
                made._own_mean.assign(np.zeros(size))
                made._remember(tf.constant(rng.normal(size=(50, size))))
            found.append(np.trace(made._affine()) / size - 1)
        return np.mean(found[5:])

    # A running average is as uncertain as 2*100 - 50 images are, of which A has 3 (F + 1) / 8n too much.
    np.testing.assert_allclose(excess(100), 3 * (size + 1) / 8 / 150, rtol=0.3)
    assert excess(1600) < 0.2 * excess(100)


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
    seen = np.concatenate([quarters, square, np.eye(NUM_CLASSES)[labels]], axis=1)
    hidden = np.where(np.arange(8) < 5, seen, 0)
    mean = 0.75 * seen.mean(axis=0) + 0.25 * hidden.mean(axis=0)
    second = 0.75 * seen.T @ seen / 24 + 0.25 * hidden.T @ hidden / 24
    found_mean, found_covariance = real_moments(made)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found_covariance, second - np.outer(mean, mean), atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_moments_begin_as_those_of_what_is_drawn(drawer, images, dropout):
    made = make(drawer, images, label_dropout=dropout)
    step = tf.constant(-1, tf.int64)
    labels = made._classes(tf.constant(48), step)
    noise = made._noise(tf.zeros([48, *IMAGE_SHAPE]), step)
    drawn = made._draw(made.sampling_network, noise, labels)
    seen = np.concatenate([np.asarray(f) for f in made.features(drawn, training=False)], axis=1)
    real = np.concatenate([np.asarray(f) for f in made.features(images[0], training=False)], axis=1)
    scale = [1 / np.sqrt(real[:, :4].var(axis=0).sum())] * 4 + [1 / real[:, 4].std()]
    known = np.eye(NUM_CLASSES + 1)[labels][:, :NUM_CLASSES]
    assert (known.sum(axis=1) == 0).sum() == 48 * dropout
    found = np.concatenate([seen * scale, known], axis=1)
    np.testing.assert_allclose(made._own_mean.numpy(), found.mean(axis=0), atol=1e-5)
    covariance = np.cov(found, rowvar=False, bias=True)
    np.testing.assert_allclose(made._own_covariance.numpy(), covariance, atol=1e-5)


def test_one_feature_without_classes_is_matched(images):
    network = make_unet(conditioning="multiply")
    flow = kd.DiffusionModel(network, schedules.flow_schedule(T), prediction="flow", ema_decay=None)
    x = keras.Input(IMAGE_SHAPE)
    brightness = keras.Model(x, keras.ops.mean(x, axis=(1, 2)))
    made = kd.match(flow, brightness, spacing=TIMES, window=30)
    made.adapt(images[0])
    assert made._own_covariance.shape == (1, 1)
    assert made._own_covariance.numpy() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_batch_has_the_classes_as_often_as_real_images_have(drawer, images, dropout):
    x0, _ = images
    labels = np.repeat([0, 1, 2], [14, 7, 3])
    made = make(drawer, (x0, labels), label_dropout=dropout)
    shares = (1 - dropout) * np.array([14, 7, 3]) / 24
    expected = np.append(shares, dropout)
    counts = []
    for step in range(200):
        found = made._classes(tf.constant(10), tf.constant(step, tf.int64)).numpy()
        assert (np.diff(found) >= 0).all()
        counts.append(np.bincount(found, minlength=NUM_CLASSES + 1))
        # A share's ends fall between the same two points, or between the next.
        assert (np.abs(counts[-1] - 10 * expected) < 1).all()
    np.testing.assert_allclose(np.mean(counts, axis=0), 10 * expected, atol=0.15)
    even = made._classes(tf.constant(24), tf.constant(5, tf.int64))
    if not dropout:
        np.testing.assert_array_equal(even, labels)


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


def test_training_brings_images_closer_and_remembers_how_they_are(drawer, images):
    x0, labels = images
    made = make(drawer, images, label_dropout=0.0, ema_decay=None)
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
    shares = made._classes(tf.constant(24), tf.constant(0, tf.int64)).numpy()
    np.testing.assert_array_equal(np.bincount(shares), [8, 8, 8])


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
    made = kd.match(student, pools(), window=30)
    assert made.times == TIMES
    made.adapt(*images)  # labels are of no use here
    made.compile(optimizer="adam", run_eagerly=True)
    found = made.fit(images[0], batch_size=24, verbose=0).history["loss"]
    assert np.isfinite(found).all()
    assert made.student().sample(num_images=2).shape == (2, *IMAGE_SHAPE)


def test_what_cannot_be_matched_is_refused(drawer, images):
    with pytest.raises(ValueError, match="window: expected a positive integer, got 0"):
        make(drawer, window=0)
    with pytest.raises(ValueError, match="window: expected a positive integer, got 1.5"):
        make(drawer, window=1.5)
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
    with pytest.raises(ValueError, match="window: expected more images than the 8 features, got 8"):
        make(drawer, images, window=8)
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
    call(*MATCH, "--checkpoint-steps", "3")
    return folder / "run-distilled"


def test_distill_matches_a_run(programs, matched):
    call, folder = programs
    record = json.loads((matched / "run.json").read_text())
    assert record["status"] == "finished" and record["steps"] == 4
    told = record["distilled"]
    assert told["match"] == ["reader.onnx"] and told["times"] == [300.0, 150.0]
    assert (told["optimizer"], told["rate"], told["batch_size"]) == ("adam", 6e-6, 100)
    assert "teacher_steps" not in told
    assert told["window"] == 2000
    before, after = (runs.open_model(path / "model.keras") for path in (folder / "run", matched))
    assert type(after) is kd.DiffusionModel and after.sampling["spacing"] == [300.0, 150.0]
    was = before.sample([0, 1, 2], sampler="ddim", spacing=[300, 150], guidance_scale=1.0)
    moved = np.abs(after.sample([0, 1, 2]) - was)
    assert 0 < moved.max() and moved.mean() < 0.02
    more = ("--limit", "200", "--window", "300", "--optimizer", "muon")
    call("run-distilled", "--match", "reader.onnx", "--out", "again", *more)
    told = json.loads((folder / "again/run.json").read_text())["distilled"]
    assert (told["window"], told["optimizer"], told["rate"]) == (300, "muon", 1.8e-5)
    (last,) = (folder / "again/checkpoints").glob("*.keras")
    trained = runs.open_model(last)
    assert trained.window == 300 and type(trained.optimizer) is kd.Muon
    assert told["times"] == [300.0, 150.0] and told["epochs"] == 1  # the times that it draws in


def test_distill_goes_on_with_matching_where_it_was_stopped(programs, matched):
    call, folder = programs
    stopped = folder / "stopped"
    shutil.copytree(matched, stopped)
    (stopped / "checkpoints/step-00000004.keras").unlink()
    (stopped / "model.keras").unlink()
    record = json.loads((stopped / "run.json").read_text())
    del record["distilled"]["optimizer"]  # as in runs of before there was a choice
    (stopped / "run.json").write_text(json.dumps({**record, "status": "running"}))
    other = call("run", "--out", "stopped", "--resume", "--optimizer", "muon", status=2)
    assert "--optimizer was adam in this run and is muon now" in other.stderr
    call("run", "--out", "stopped", "--resume", "--optimizer", "adam")
    whole, again = (runs.open_model(path / "model.keras") for path in (matched, stopped))
    for ours, theirs in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--match reader.onnx --guidance 2", "--guidance: expected none with --match, got 2.0"),
        ("--match reader.onnx --teacher-steps 2", "--teacher-steps: expected none with --match"),
        ("--window 300", "--window: expected none without --match, got 300"),
        ("--optimizer muon", "--optimizer: expected none without --match, got muon"),
        ("--match reader.onnx --optimizer sgd", "--optimizer: invalid choice: 'sgd'"),
        ("--match reader.onnx --window 30", "window: expected more images than the 66 features"),
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
