"""Refining: a network behind the last call is trained alone; what it is, what it leaves, and what it is shipped as."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_small, one_line, roughen
from test_matching import SCHEDULE, TIMES, T, pools

import keras_diffusion as kd
from keras_diffusion import nn, predictions, settings
from keras_diffusion.exporting import denoiser, smaller
from keras_diffusion.nn import blocks, refining

KINDS = pytest.mark.parametrize("width", [6, settings.COPY])


@pytest.fixture(scope="module")
def drawer():
    """A rough network as a model that draws."""
    return kd.DiffusionModel(make_small(), SCHEDULE, prediction="v", ema_decay=None)


def make(drawer, images=None, *, rate=3e-3, eagerly=True, **options):
    made = kd.refine(drawer, pools(), **{"spacing": TIMES, "pool": 48, "width": 6, **options})
    if images is not None:
        made.adapt(*images)
    made.compile(optimizer=keras.optimizers.Adam(rate), run_eagerly=eagerly)
    return made


def rough_refiner(network, seed=7):
    """Gives a network's refiner weights that change what it draws."""
    roughen(refining.parts(network)[2], seed=seed)
    return network


@KINDS
def test_a_new_refiner_changes_no_image(drawer, width):
    labels = np.array([0, 1, 2, NUM_CLASSES])
    made = make(drawer, width=width)
    assert refining.width_of(made.network) == width
    asked = {"spacing": TIMES, "sampler": "ddim", "guidance_scale": 1.0, "seed": 3}
    expected = drawer.sample(labels, **asked)
    np.testing.assert_allclose(made.student().sample(labels, seed=3), expected, atol=1e-6)
    assert 0 < expected.min() + expected.std() and expected.std() > 0.01


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_what_a_refiner_puts_out_is_added_to_the_image(prediction):
    """At its times alone, to the image within [0, 1], whatever the network predicts; it sees image, noise and class."""
    base, schedule = make_small(), kd.linear_schedule(T)
    network = nn.with_refiner(base, schedule, prediction=prediction, below=30, width=6)
    rough_refiner(network)
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.8, (3, *IMAGE_SHAPE)).astype(np.float32)
    label = np.array([0, 2, NUM_CLASSES], np.int32)
    for t in (100, 31, 30, 4):
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        inputs = {"x": x, "t": np.full(3, t / T, np.float32), "label": label}
        out, plain = network(inputs).numpy(), base(inputs).numpy()
        if t > 30:
            np.testing.assert_array_equal(out, plain)
            continue
        p, q = predictions.to_x0(prediction, alpha, sigma)
        x0 = np.clip(p * x + q * plain, 0, 1)
        eps = (x - alpha * (p * x + q * plain)) / sigma
        change = refining.parts(network)[2]({"x0": x0, "eps": eps, "label": label}).numpy()
        assert np.abs(change).max() > 0.05
        assert np.abs(p * x + q * plain - x0).max() > 0.05  # some pixels were clipped
        np.testing.assert_allclose(p * x + q * out, x0 + change, atol=2e-4)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_a_copys_image_is_taken_in_place_of_the_networks(prediction):
    """At its times alone, whatever the network predicts; the network itself stays as it was."""
    base, schedule = make_small(), kd.linear_schedule(T)
    network = nn.with_refiner(base, schedule, prediction=prediction, below=30, width=settings.COPY)
    copy = refining.parts(network)[2]
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.8, (3, *IMAGE_SHAPE)).astype(np.float32)
    label = np.array([0, 2, NUM_CLASSES], np.int32)
    inputs = {"x": x, "t": np.full(3, 30 / T, np.float32), "label": label}
    plain = base(inputs).numpy()
    np.testing.assert_array_equal(copy(inputs), plain)
    base.trainable = False
    again = nn.with_refiner(base, schedule, prediction=prediction, below=30, width=settings.COPY)
    assert len(refining.parts(again)[2].trainable_weights) == len(copy.trainable_weights) > 5
    roughen(copy, seed=7)
    np.testing.assert_array_equal(base(inputs), plain)
    for t in (100, 31, 30, 4):
        p, q = predictions.to_x0(prediction, schedule.alpha[t], schedule.sigma[t])
        inputs["t"] = np.full(3, t / T, np.float32)
        out, other = network(inputs).numpy(), copy(inputs).numpy()
        if t > 30:
            np.testing.assert_array_equal(out, base(inputs))
            continue
        image = np.clip(p * x + q * other, 0, 1)
        assert 0 < image.mean() < 1 and np.abs(image - p * x - q * base(inputs)).max() > 0.05
        np.testing.assert_allclose(p * x + q * out, image, atol=2e-4)
    inputs["t"] = np.zeros(3, np.float32)  # where an output says nothing of the image
    np.testing.assert_array_equal(network(inputs), copy(inputs))


@KINDS
def test_a_matching_calls_a_refiner_in_the_last_call_alone(drawer, width):
    """It draws what calling the whole network in each would draw."""
    refined = rough_refiner(make(drawer, width=width).network)
    alone = refining.refined_alone(refined)
    assert (alone is refined) == (width == 6)  # a small one needs what it refines
    for network in (refined, drawer.network):
        model = kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)
        made = kd.match(model, pools(), spacing=TIMES, pool=48)
        acts = [refining.acting(made.network, t) for t in made._plan.t]
        assert (acts[-1] is made.network) == (network is drawer.network or width == 6)
        base = refining.parts(made.network)[0] if network is refined else made.network
        assert len(acts) == len(TIMES) and all(one is base for one in acts[:-1])
        noise = tf.random.stateless_normal([3, *IMAGE_SHAPE], [1, 2])
        label, x, x0 = tf.constant([0, 1, 2]), noise, tf.zeros_like(noise)
        for call in range(len(TIMES)):
            out = made.denoise(x, made._time(call, x), label, network=made.network)
            x, x0 = made._end(call, x, x0, out)
        np.testing.assert_allclose(made._draw(made.network, noise, label), x, atol=1e-5)


def test_a_refiner_hears_the_class(drawer):
    refiner = refining.parts(rough_refiner(make(drawer).network))[2]
    rng = np.random.default_rng(0)
    seen = {k: rng.normal(size=(1, *IMAGE_SHAPE)).astype(np.float32) for k in ("x0", "eps")}
    found = [refiner({**seen, "label": np.array([k])}).numpy() for k in range(NUM_CLASSES + 1)]
    for k in range(NUM_CLASSES):
        assert np.abs(found[k] - found[k + 1]).max() > 1e-3


@KINDS
def test_a_step_draws_what_the_whole_network_would_and_trains_the_refiner_alone(
    drawer, images, width
):
    made = make(drawer, images, width=width)
    for network in (made.network, made.ema_network):
        rough_refiner(network)
    made.new_pool(1)
    before = [weight.numpy() for weight in made.network.weights]
    begin, count = made._next.value, tf.constant(24)
    noise, label = made._noises(begin, count), made._classes(begin, count)
    whole = made._draw(made.network, noise, label)
    np.testing.assert_allclose(made._draw_next(made.network, label, count), whole, atol=1e-5)
    np.testing.assert_allclose(
        made._remembered.numpy()[:24], made._joint(whole, label), rtol=1e-4, atol=1e-5
    )
    made.fit(*images, batch_size=24, verbose=0)
    base, _, refiner = refining.parts(made.network)
    own = {id(weight) for weight in refiner.trainable_weights}
    assert base.weights and not base.trainable_weights and len(own) > len(refiner.weights) / 2
    for weight, was in zip(made.network.weights, before, strict=True):
        moved = not np.array_equal(weight.numpy(), was)
        assert moved == (id(weight) in own), weight.path
    assert int(made._next.numpy()) == 24


@KINDS
def test_refining_brings_images_closer(drawer, images, width):
    made = make(drawer, images, eagerly=False, pool=100, width=width)
    before = made.distance()
    labels = np.resize(images[1], 240)
    made.fit(np.resize(images[0], (240, *IMAGE_SHAPE)), labels, batch_size=24, epochs=6, verbose=0)
    assert made.distance() < before / 3
    made.new_pool(99)  # noises that it hasn't seen
    assert made.distance() < before / 3
    student = made.student()
    drawn = student.sample(labels, seed=5)
    real = np.concatenate(made.features(images[0], training=False), axis=1)
    means = [np.concatenate(made.features(x, training=False), axis=1).mean(axis=0) for x in (drawn, drawer.sample(labels, seed=5, spacing=TIMES, sampler="ddim", guidance_scale=1.0))]  # fmt: skip
    ways = [np.linalg.norm(mean - real.mean(axis=0)) for mean in means]
    assert ways[0] < ways[1] / 2
    added = len(student.network.trainable_weights) - len(made.network.trainable_weights)
    held = [one for one in blocks.layers(made.network) if isinstance(one, nn.BatchNorm)]
    of_base = blocks.layers(refining.parts(made.network)[0])
    of_base = [one for one in of_base if isinstance(one, nn.BatchNorm)]
    assert added == len(drawer.network.trainable_weights) + len(held) - len(of_base)


@KINDS
def test_refining_goes_on_from_a_file_as_if_nothing_had_happened(drawer, images, tmp_path, width):
    x0, labels = images
    made = make(drawer, images, eagerly=False, width=width)
    second = {"batch_size": 12, "initial_epoch": 1, "shuffle": False, "verbose": 0}
    made.fit(x0[:12], labels[:12], epochs=2, **second)
    made.save(tmp_path / "model.keras")  # in the midst of a pool
    assert (made._next.numpy(), made._pool_number.numpy()) == (12, 1)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (made, loaded):
        model.fit(x0, labels, epochs=2, **second)
        assert (model._next.numpy(), model._pool_number.numpy()) == (36, 1)
        model.fit(x0, labels, epochs=3, **{**second, "initial_epoch": 2})
        assert (model._next.numpy(), model._pool_number.numpy()) == (24, 2)
    for ours, theirs in zip(made.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not refining.parts(loaded.network)[0].trainable_weights


@pytest.mark.parametrize("make_model", [make, None])
def test_each_epoch_has_noises_of_its_own(drawer, images, make_model):
    """Of a Matching too; what is remembered is of these noises, and the same seed and epoch draw the same."""
    if make_model is None:

        def make_model(drawer, images, **options):
            made = kd.match(drawer, pools(), spacing=TIMES, pool=48, **options)
            made.adapt(*images)
            made.compile(optimizer=keras.optimizers.SGD(0.0), run_eagerly=True)
            return made

    def noises(made):
        return made._noises(tf.constant(0, tf.int64), tf.constant(48)).numpy()

    made = make_model(drawer, images)
    first = noises(made)
    made.fit(*images, batch_size=24, verbose=0)
    made.fit(*images, batch_size=24, verbose=0)  # its epoch 0 once more
    np.testing.assert_array_equal(noises(made), first)
    made.fit(*images, batch_size=24, epochs=3, verbose=0)
    third = noises(made)
    assert not np.isin(third, first).any()
    other = make_model(drawer, images)
    other.new_pool(2)
    np.testing.assert_array_equal(noises(other), third)
    rows = tf.constant(0, tf.int64), tf.constant(48)
    again = make_model(drawer, images)
    label = other._classes(*rows)
    drawn = again._joint(again._draw(again.sampling_network, tf.constant(third), label), label)
    np.testing.assert_allclose(other._remembered.numpy(), drawn, rtol=1e-4, atol=1e-5)
    found = other._remembered.numpy().astype(np.float64)
    np.testing.assert_allclose(other._own_mean.numpy(), found.mean(axis=0))
    np.testing.assert_allclose(other._own_square.numpy(), found.T @ found / 48)


def test_what_cannot_be_refined_is_refused(drawer, images):
    made = make(drawer)
    with pytest.raises(ValueError) as error:
        kd.refine(made.student(), pools(), width=8)
    assert one_line(error) == "width: expected 6, that of the refiner that the model has, got 8"
    assert nn.refining.width_of(kd.refine(made.student(), pools()).network) == 6
    with pytest.raises(ValueError) as error:
        kd.refine(made.student(), pools(), width=settings.COPY)
    assert one_line(error).startswith("width: expected 6, that of the refiner that the model has")
    with pytest.raises(ValueError) as error:
        kd.refine(made.student(), pools(), spacing=[100, 60, 20, 10])
    assert "expected the last alone to be at most 30" in one_line(error)
    with pytest.raises(ValueError) as error:
        kd.refine(made.student(), pools(), spacing=[100, 60, 50])
    assert "expected the last alone to be at most 30" in one_line(error)
    with pytest.raises(ValueError) as error:
        kd.Refining(make_small(), SCHEDULE, prediction="v", features=pools(), times=TIMES)
    assert "without a refiner" in one_line(error)
    with pytest.raises(ValueError) as error:
        nn.with_refiner(made.network, SCHEDULE, prediction="v", below=30)
    assert one_line(error) == "network: expected one without a refiner, got one with it"
    with pytest.raises(ValueError) as error:
        nn.with_refiner(make_small(), SCHEDULE, prediction="v", below=0)
    assert one_line(error) == "below: expected a time in (0, 100], got 0"
    with pytest.raises(ValueError) as error:
        nn.with_refiner(nn.unet(width=4, conditioning=None), SCHEDULE, prediction="v", below=3)
    assert "expected a functional Keras model on a dict that has x and t" in one_line(error)
    given = {
        "x": keras.Input(IMAGE_SHAPE, name="x"),
        "t": keras.Input((), name="t"),
        "label": keras.Input((), name="label", dtype="int32"),
    }
    deaf = keras.Model(given, keras.layers.Conv2D(1, 1)(given["x"]))
    with pytest.raises(ValueError) as error:
        nn.with_refiner(deaf, SCHEDULE, prediction="v", below=30)
    assert one_line(error).startswith("num_classes: expected the number of classes")
    copied = nn.with_refiner(deaf, SCHEDULE, prediction="v", below=30, width=settings.COPY)
    assert refining.width_of(copied) == settings.COPY  # which need not know them
    with pytest.raises(ValueError) as error:
        nn.with_refiner(make_small(), SCHEDULE, prediction="v", below=30, width="Copy")
    assert one_line(error) == "width: expected an integer or copy, got 'Copy'"
    with pytest.raises(ValueError) as error:
        kd.DiffusionModel(made.network, SCHEDULE, prediction="x0")
    assert one_line(error) == ("prediction: expected v, which the network is refined for, got x0")
    with pytest.raises(ValueError) as error:
        made.new_pool(1)
    assert "call adapt" in one_line(error)


def test_a_pool_that_was_not_drawn_to_its_end_is_drawn_anew(drawer, images, monkeypatch):
    made = make(drawer, images)
    whole = make(drawer, images)
    with monkeypatch.context() as patch:
        patch.setattr(made, "_drawn", lambda done: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.fit(*images, batch_size=24, initial_epoch=1, epochs=2, verbose=0)
    for model in (made, whole):
        model.fit(*images, 24, 2, 0, [keras.callbacks.Callback()], initial_epoch=1)
    for ours, theirs in zip(made.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert int(made._pool_number.numpy()) == 1


def test_black_pixels_are_trained(drawer, images):
    """They were clipped to 0: a rounding below it would take them their gradient."""
    made = make(drawer, images)
    label = made._classes(made._next.value, tf.constant(48))
    last = refining.parts(made.network)[2].get_layer("last")
    drawn = made._draw_next(made.network, label, tf.constant(48))
    black = (drawn.numpy() == 0).sum()
    inside = ((drawn.numpy() > 0) & (drawn.numpy() < 1)).sum()
    assert min(black, inside) > 100
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(made._draw_next(made.network, label, tf.constant(48)))
    # The bias is every pixel's: 1 of each that has a gradient.
    assert float(tf.reduce_sum(tape.gradient(total, last.bias))) == drawn.numpy().size


@KINDS
def test_a_model_draws_with_its_refiner_in_the_last_call_alone(drawer, width, monkeypatch):
    """The images are those that calling the whole network in each would give."""
    network = rough_refiner(make(drawer, width=width).student().network)
    model = kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)
    asked = {"spacing": TIMES, "sampler": "ddim", "guidance_scale": 2.0, "seed": 3}
    whole = kd.DiffusionModel(network, SCHEDULE, prediction="v", ema_decay=None)
    monkeypatch.setattr(whole, "_call_where_due", whole.denoise)
    expected = whole.sample([0, 1, 2], **asked)
    np.testing.assert_allclose(model.sample([0, 1, 2], **asked), expected, atol=1e-6)
    base, _, refiner = refining.parts(network)
    for t, acts in ((31, [base]), (30, [refiner] if width == settings.COPY else [base, refiner])):
        x, label = tf.ones((2, *IMAGE_SHAPE)), tf.constant([0, 1])
        t = tf.constant(np.float32([t, t]) / T)
        found = model._call_where_due(x, t, label).numpy()
        np.testing.assert_allclose(found, network({"x": x, "t": t, "label": label}), atol=1e-6)
        for part in (base, refiner):
            before = part.get_weights()
            part.set_weights([np.full_like(weight, np.nan) for weight in before])
            found = model._call_where_due(x, t, label).numpy()
            assert np.isfinite(found).all() == (part not in acts)
            part.set_weights(before)


def convolutions(network, least=0):
    """How many a network has, of kernels of at least so many numbers."""
    found = [one for one in blocks.layers(network) if isinstance(one, keras.layers.Conv2D)]
    return sum(np.prod(one.kernel.shape) >= least for one in found)


def branches(model):
    """What of an exported network is computed only where its refiner acts and, of a copy, only where the network itself does."""
    return [a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch"]


def spoilt(model, part):
    """An exported network with kernels that aren't numbers in one of its branches."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    for weight in branches(broken)[part].initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.ndim == 4 and array.dtype == np.float32:  # a kernel
            bad = onnx.numpy_helper.from_array(np.full_like(array, np.nan), weight.name)
            weight.CopyFrom(bad)
    return onnxruntime.InferenceSession(broken.SerializeToString())


@KINDS
def test_an_exported_refiner_runs_in_the_calls_that_it_acts_in_alone(drawer, width):
    """Of one image or of all; the weights of each place stand there once, in few bits too."""
    network = rough_refiner(make(drawer, width=width).student().network)
    model = kd.DiffusionModel(network, SCHEDULE, prediction="v", sampling={"spacing": TIMES})
    base, _, refiner = refining.parts(network)
    whole = denoiser.to_onnx(network, denoiser.signature(model))
    kinds = [node.op_type for node in whole.graph.node]
    copied = width == settings.COPY
    assert kinds.count("If") == (2 if copied else 1)
    assert kinds.count("Conv") == (0 if copied else convolutions(base))
    within = [[node.op_type for node in part.node].count("Conv") for part in branches(whole)]
    assert within == [convolutions(one) for one in ([refiner, base] if copied else [refiner])]
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.8, (3, *IMAGE_SHAPE)).astype(np.float32)
    label = np.array([0, 2, NUM_CLASSES], np.int32)
    for precision, apart in (("float32", 1e-5), ("int8", 0.1)):
        graph = whole if precision == "float32" else smaller.shrink(whole, precision)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        for t in ([100, 60, 31], [30, 30, 30], [100, 30, 5]):
            inputs = {"x": x, "t": np.float32(t) / T, "label": label}
            (found,) = session.run(None, inputs)
            np.testing.assert_allclose(found, network(inputs), atol=apart)
            if precision == "float32":
                acts = np.abs(found - base(inputs)).max(axis=(1, 2, 3)) > 0.01
                assert acts.tolist() == [time <= 30 for time in t]
    for part in range(len(branches(whole))):
        session = spoilt(whole, part)
        for t in ([100, 60, 31], [30, 20, 30], [100, 60, 30]):
            (found,) = session.run(None, {"x": x, "t": np.float32(t) / T, "label": label})
            finite = np.isfinite(found).all(axis=(1, 2, 3))
            late = np.array(t) > 30  # of a small one what isn't a number is everywhere, times 0
            expected = (late == (part == 0)) if copied else np.full(3, late.all())
            np.testing.assert_array_equal(finite, expected)
    stored = [weight.data_type for weight in branches(graph)[0].initializer]  # of the last, in int8
    assert stored.count(onnx.TensorProto.INT8) >= convolutions(refiner, least=64)
