"""DiffusionModel: what a step computes, what is remembered, and what sampling uses."""

import json
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_unet, one_line, roughen

from keras_diffusion import nn, predictions, sampling, schedules
from keras_diffusion.nn import blocks
from keras_diffusion.training import DiffusionModel

LINEAR = schedules.linear_schedule(300)
FLOW = schedules.flow_schedule(300)


def make_tiny(*, seed=0, num_classes=NUM_CLASSES):
    """A network with all that matters (BatchNorm, time, class) and little to compile."""
    inputs = {"x": keras.Input(IMAGE_SHAPE, name="x"), "t": keras.Input((), name="t")}
    h = blocks.conv(inputs["x"], 4, name="enter")
    if num_classes:
        inputs["label"] = keras.Input((), name="label", dtype="int32")
        vector = nn.OneHot(num_classes)(inputs["label"])
        h = h * blocks.fc_block(vector, 4, name="c1")
    h = h + blocks.fc_block(keras.layers.Reshape((1,))(inputs["t"]), 4, name="t1")
    out = keras.layers.Conv2D(1, 3, padding="same")(h)
    return roughen(keras.Model(inputs, out), seed=seed)


def make_model(network=None, schedule=LINEAR, *, optimizer=None, **arguments):
    model = DiffusionModel(make_tiny() if network is None else network, schedule, **arguments)
    # Eagerly by default: a graph costs more to trace than these networks take for a few steps.
    model.compile(optimizer=optimizer or keras.optimizers.Adam(1e-2), run_eagerly=True)
    return model


def make_affine():
    """out = 0.5*x + t + label/10, so that a loss can be computed by hand; the 0.5 is trained."""
    inputs = {
        "x": keras.Input(IMAGE_SHAPE, name="x"),
        "t": keras.Input((), name="t"),
        "label": keras.Input((), name="label", dtype="int32"),
    }
    half = keras.initializers.Constant(0.5)
    scaled = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=half)(inputs["x"])
    spread = keras.layers.Reshape((1, 1, 1))
    label = keras.ops.cast(inputs["label"], "float32")
    return keras.Model(inputs, scaled + spread(inputs["t"]) + 0.1 * spread(label))


def affine(xt, t, label):
    return 0.5 * xt + (t + 0.1 * label)[:, None, None, None]


def corrupt(model, x0, step):
    return [
        value.numpy() for value in model.corrupt(tf.constant(x0), step=tf.constant(step, tf.int64))
    ]


def train(model, x0, label):
    """One step on a batch; its loss."""
    model.train_on_batch(tf.constant(x0), tf.constant(label))
    return float(model.batch_loss.numpy())


def state(model):
    """Everything that training changes, as arrays."""
    variables = [*model.network.weights, *model.optimizer.variables, model.step]
    if model.ema_network is not None:
        variables += model.ema_network.weights
    return [keras.ops.convert_to_numpy(v.value) for v in variables]


# ---- the forward process


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("schedule", [LINEAR, schedules.cosine_schedule(50)])
def test_corrupt_is_the_forward_process(prediction, schedule, images):
    x0, _ = images
    model = make_model(schedule=schedule, prediction=prediction, ema_decay=None)
    eps = corrupt(make_model(schedule=schedule, ema_decay=None), x0, 7)[
        2
    ]  # eps-prediction's target
    xt, t, target = corrupt(model, x0, 7)
    number = np.round(t * schedule.num_train_steps).astype(int)
    np.testing.assert_allclose(t, number / schedule.num_train_steps, rtol=1e-6)
    assert len(set(number)) > 10  # each image has its own
    alpha, sigma = (s[number][:, None, None, None] for s in (schedule.alpha, schedule.sigma))
    np.testing.assert_allclose(xt, alpha * x0 + sigma * eps, atol=1e-5)
    expected = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": x0 - eps}
    np.testing.assert_allclose(target, expected[prediction], atol=1e-5)


def test_a_flow_has_real_times(images):
    x0, _ = images
    model = make_model(schedule=FLOW, prediction="flow", ema_decay=None)
    xt, t, target = corrupt(model, x0, 7)
    assert np.abs(300 * t - np.round(300 * t)).max() > 0.1
    t = t[:, None, None, None]
    eps = x0 - target
    np.testing.assert_allclose(xt, (1 - t) * x0 + t * eps, atol=1e-5)
    assert abs(eps.std() - 1) < 0.1


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_a_denoiser_has_one_step_and_predicts_x0(alpha, images):
    x0, _ = images
    schedule = schedules.denoiser_schedule(0.5, alpha=alpha)
    model = make_model(schedule=schedule, prediction="x0", ema_decay=None)
    xt, t, target = corrupt(model, x0, 0)
    np.testing.assert_array_equal(target, x0)
    np.testing.assert_array_equal(t, 1)
    added = (xt - alpha * x0) / 0.5
    assert abs(added.std() - 1) < 0.1 and abs(np.corrcoef(added.ravel(), x0.ravel())[0, 1]) < 0.1


def many_draws(schedule, prediction, steps, **arguments):
    """xt, t and target of 1000 images in each of some training steps."""
    model = make_model(schedule=schedule, prediction=prediction, ema_decay=None, **arguments)
    x0 = np.zeros((1000, 2, 2, 1), np.float32)  # the draws know only how many images there are
    parts = [corrupt(model, x0, step) for step in range(steps)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_times_are_uniform_over_1_to_t():
    _, t, _ = many_draws(schedules.linear_schedule(20), "eps", 10)
    number = np.round(20 * t).astype(int)
    assert number.min() == 1 and number.max() == 20
    counts = np.bincount(number, minlength=21)[1:]
    assert counts.sum() == 10_000
    # Chi-squared with 19 degrees of freedom: 99.9 % lie below 43.8
    assert ((counts - 500) ** 2 / 500).sum() < 43.8


def test_times_of_a_flow_are_uniform():
    _, t, _ = many_draws(FLOW, "flow", 10)
    assert 0 < t.min() < 0.005 and 0.995 < t.max() <= 1
    counts = np.histogram(t, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8


@pytest.mark.parametrize(("schedule", "prediction"), [(LINEAR, "eps"), (FLOW, "flow")])
def test_stratified_times_are_spread_evenly_and_still_uniform(schedule, prediction):
    _, t, _ = many_draws(schedule, prediction, 20, stratified=True)
    for batch in t.reshape(20, 1000):
        counts = np.histogram(batch, bins=20, range=(1e-9, 1))[0]
        assert np.abs(counts - 50).max() <= 4  # 50 at random would spread by 7
    firsts = np.sort(
        t[::1000]
    )  # an image's own time is any: 20 of them, as far apart as chance has it
    assert firsts.min() < 0.25 and firsts.max() > 0.75 and len(set(firsts)) > 15
    if prediction == "eps":
        number = np.round(t * 300).astype(int)
        assert number.min() == 1 and number.max() == 300


def test_eps_is_standard_normal_and_fresh():
    _, t, eps = many_draws(LINEAR, "eps", 10)
    n = eps.size
    assert abs(eps.mean()) < 4 / np.sqrt(n)
    assert abs((eps**2).mean() - 1) < 4 * np.sqrt(2 / n)
    assert abs((eps**4).mean() - 3) < 4 * np.sqrt(96 / n)
    values = eps.reshape(len(eps), -1)
    for a, b in [
        (values[:, 0], values[:, 1]),  # pixels
        (values[:-1], values[1:]),  # images
        (values[:-1000], values[1000:]),  # steps
        (values[:, 0], t - t.mean()),  # its own time
    ]:
        correlation = (a * b).mean() / (a.std() * b.std())
        assert abs(correlation) < 4 / np.sqrt(a.size)


def test_draws_depend_on_seed_and_step_alone(images):
    x0, _ = images
    first = corrupt(make_model(seed=3), x0, 5)
    again = corrupt(make_model(make_tiny(num_classes=0), seed=3, ema_decay=None), x0, 5)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for seed, step in [(4, 5), (3, 6), (3, -6), (3 + 2**33, 5)]:
        _, t, eps = corrupt(make_model(seed=seed, ema_decay=None), x0, step)
        assert np.mean(t == first[1]) < 0.3
        assert np.mean(eps == first[2]) < 0.01


# ---- the loss


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(LINEAR, "eps"), (LINEAR, "v"), (LINEAR, "x0"), (FLOW, "v"), (FLOW, "flow")],
)
@pytest.mark.parametrize(
    ("weighing", "of_x0"),
    [({"min_snr": 5.0}, lambda snr: np.minimum(snr, 5)), ({"data_std": 0.4}, lambda snr: snr + 1 / 0.4**2)],
    ids=["min_snr", "data_std"],
)  # fmt: skip
def test_the_loss_of_each_image_is_weighed(weighing, of_x0, prediction, schedule, images):
    x0, label = images
    model = make_model(
        make_affine(), schedule=schedule, prediction=prediction, num_classes=NUM_CLASSES,
        label_dropout=0.0, ema_decay=None, optimizer=keras.optimizers.SGD(0.0), **weighing,
    )  # fmt: skip
    xt, t, target = corrupt(model, x0, 0)
    alpha, sigma = (value[:, None, None, None] for value in schedule.at(300 * t.astype(float)))
    _, q = predictions.to_x0(prediction, alpha, sigma)
    weight = of_x0((alpha / sigma) ** 2) * q**2
    expected = np.mean(weight * (target - affine(xt, t, label)) ** 2)
    np.testing.assert_allclose(train(model, x0, label), expected, rtol=1e-3)


@pytest.mark.parametrize("value", [0, -1.0, True, "5"])
def test_min_snr_is_a_positive_number(value):
    with pytest.raises(ValueError) as error:
        make_model(min_snr=value)
    assert "min_snr" in one_line(error)


def test_what_the_loss_is_made_of_is_remembered(tmp_path, images):
    model = make_model(min_snr=4.0, stratified=True)
    train(model, *images)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (again.min_snr, again.stratified) == (4.0, True)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_loss_and_step_are_the_formulas(prediction, images):
    """mean (target - out)², and a step of plain gradient descent on it; the second step has draws of its own."""
    x0, label = images
    learning_rate = 1e-2
    model = make_model(
        make_affine(),
        prediction=prediction,
        num_classes=NUM_CLASSES,
        label_dropout=0.0,
        optimizer=keras.optimizers.SGD(learning_rate),
    )
    kernel = 0.5
    for step in range(2):
        xt, t, target = corrupt(model, x0, step)
        out = affine(xt, t, label) + (kernel - 0.5) * xt
        loss = train(model, x0, label)
        np.testing.assert_allclose(loss, np.mean((target - out) ** 2), rtol=1e-5)
        kernel += learning_rate * 2 * np.mean((target - out) * xt)
        np.testing.assert_allclose(model.network.get_weights()[0].item(), kernel, rtol=1e-5)
    assert int(model.step.numpy()) == 2


def record_labels(model):
    """Makes a model keep the labels that its network is called with."""
    seen, denoise = [], model.denoise

    def spy(x, t, label, **arguments):
        seen.append(label.numpy())
        return denoise(x, t, label, **arguments)

    model.denoise = spy
    return seen


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_label_dropout(rate):
    model = make_model(label_dropout=rate)
    seen = record_labels(model)
    label = np.tile(np.arange(NUM_CLASSES, dtype=np.int32), 300)
    x0 = np.zeros((900, *IMAGE_SHAPE), np.float32)
    for _ in range(3):
        train(model, x0, label)
    hidden = np.array([labels == NUM_CLASSES for labels in seen])
    assert abs(hidden.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / hidden.size)
    for labels, mask in zip(seen, hidden, strict=True):
        np.testing.assert_array_equal(labels[~mask], label[~mask])
    if 0 < rate < 1:
        assert (hidden[0] != hidden[1]).any()  # fresh in each step
    # An evaluation hides none.
    seen.clear()
    model.test_on_batch(tf.constant(x0[:30]), tf.constant(label[:30]))
    np.testing.assert_array_equal(seen[0], label[:30])


def test_dropout_is_independent_of_time_and_noise():
    """A stream of its own: from another's key, the same words would hide the classes of the noisiest images."""
    model = make_model(schedule=FLOW, prediction="flow", label_dropout=0.5, ema_decay=None)
    seen = record_labels(model)
    x0 = np.zeros((2000, *IMAGE_SHAPE), np.float32)
    train(model, x0, np.zeros(2000, np.int32))
    _, t, target = corrupt(model, x0, 0)
    hidden, eps = seen[0] == NUM_CLASSES, -target.ravel()[:2000]
    # Box-Muller: of a pair of words one decides the sizes of two numbers, the other shares them out.
    for a, b in [(hidden, t), (hidden, eps), (hidden[::2], eps[::2] ** 2 + eps[1::2] ** 2)]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


def test_overfits_one_batch(images):
    """A class UNet of width 8: eps-MSE from 1 (knowing nothing) to below 0.2 in 120 steps on 24 images."""
    x0, label = images
    model = DiffusionModel(
        nn.unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE), LINEAR
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.from_tensors((x0, label)).repeat()
    losses = model.fit(data, epochs=6, steps_per_epoch=20, shuffle=False, verbose=0).history["loss"]
    assert losses[0] > 0.25
    assert losses[-1] < 0.2
    # The averaged network, in inference mode, is as good: what sampling uses.
    assert model.evaluate(x0, label, batch_size=24, verbose=0) < 0.2


def test_a_denoiser_trains(images):
    x0, _ = images
    network = nn.unet(width=8, conditioning=None, image_shape=IMAGE_SHAPE)
    model = DiffusionModel(network, schedules.denoiser_schedule(0.5), prediction="x0")
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.from_tensors(x0).repeat()  # images alone
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that of Keras, which can't shuffle a dataset
        losses = model.fit(data, epochs=4, steps_per_epoch=15, verbose=0).history["loss"]
    assert losses[-1] < 0.02 < np.mean((x0 - x0.mean()) ** 2)
    clean = model.denoise(x0 + 0.5 * np.random.default_rng(0).normal(size=x0.shape), None, None)
    assert np.mean((clean - x0) ** 2) < 0.03


def test_a_flow_trains(images):
    x0, label = images
    model = make_model(schedule=FLOW, prediction="flow")
    losses = [train(model, x0, label) for _ in range(40)]
    assert np.isfinite(losses).all()
    assert model.evaluate(x0, label, verbose=0) < 0.8 * losses[0]
    assert np.isfinite(model.sample(labels=[0, 1], sampler="euler", num_steps=5)).all()


def test_a_numpy_batch_is_enough(images):
    """Keras hands train_on_batch's arrays to an eager step as they are."""
    x0, label = images
    ours, theirs = make_model(), make_model()
    ours.train_on_batch(x0, label)
    train(theirs, x0, label)
    for a, b in zip(state(ours), state(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.test_on_batch(x0, label) == theirs.test_on_batch(
        tf.constant(x0), tf.constant(label)
    )


def test_a_short_last_batch(images):
    """Ten images in batches of four: three steps, and the epoch's loss is the mean over images."""
    x0, label = (value[:10] for value in images)
    model = make_model(label_dropout=0.0)
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(model.batch_loss.numpy()))
    )
    history = model.fit(x0, label, batch_size=4, shuffle=False, verbose=0, callbacks=[keep]).history
    assert len(losses) == 3 and int(model.step.numpy()) == 3
    np.testing.assert_allclose(history["loss"], [np.average(losses, weights=[4, 4, 2])], rtol=1e-5)


# ---- the average


@pytest.mark.parametrize("decay", [0.999, 0.15])
def test_average_in_closed_form(decay, images):
    """After three steps, with the warm-up, over the moving statistics too."""
    x0, label = images
    model = make_model(ema_decay=decay)
    history = [model.network.get_weights()]
    for _ in range(3):
        train(model, x0, label)
        history.append(model.network.get_weights())
    kept = [min(decay, rate) for rate in (1 / 10, 2 / 11, 3 / 12)]
    shares = [
        kept[0] * kept[1] * kept[2],
        (1 - kept[0]) * kept[1] * kept[2],
        (1 - kept[1]) * kept[2],
        1 - kept[2],
    ]
    moved = 0
    for weight, average, *values in zip(
        model.network.weights, model.ema_network.weights, *history, strict=True
    ):
        expected = sum(share * value for share, value in zip(shares, values, strict=True))
        np.testing.assert_allclose(average.value.numpy(), expected, atol=1e-6, err_msg=weight.path)
        moved += not np.allclose(expected, values[-1], atol=1e-4)
        if weight.name.startswith("moving"):
            assert not np.allclose(expected, values[-1], atol=1e-4)
    assert moved > 8


def test_without_an_average_the_network_itself_samples(images):
    x0, label = images
    model = make_model(ema_decay=None)
    train(model, x0, label)
    assert model.sampling_network is model.network
    assert make_model().sampling_network is not model.network


def test_the_average_is_not_trained():
    model = make_model()
    assert len(model.trainable_variables) == len(model.network.trainable_variables)
    ours, networks = (
        {id(v) for v in trainable}
        for trainable in (model.trainable_variables, model.network.trainable_variables)
    )
    assert ours == networks


# ---- evaluation


def test_evaluate_is_repeatable_and_uses_what_sampling_uses(images):
    x0, label = (value[:10] for value in images)
    model = make_model()
    for _ in range(3):
        train(model, x0, label)
    before = state(model)
    results = [model.evaluate(x0, label, batch_size=4, verbose=0) for _ in range(2)]
    assert results[0] == results[1]
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)  # nothing moved, BatchNorm's statistics least of all

    def by_hand(network, training):
        losses = []
        for start in (0, 4, 8):
            batch = slice(start, start + 4)
            xt, t, target = corrupt(model, x0[batch], -1 - start)
            out = network({"x": xt, "t": t, "label": label[batch]}, training=training)
            losses.append(np.mean((target - out) ** 2))
        return np.average(losses, weights=[4, 4, 2])

    np.testing.assert_allclose(results[0], by_hand(model.ema_network, False), rtol=1e-5)
    # The others are others, or the line above proves nothing.
    assert abs(results[0] - by_hand(model.network, False)) > 1e-4
    copy = keras.models.clone_model(model.ema_network)
    copy.set_weights(model.ema_network.get_weights())
    assert abs(results[0] - by_hand(copy, True)) > 1e-4


# ---- saving


def go_on(model, target):
    """Samples, trains on for three steps, and writes down all that came of it."""
    with np.load(Path(target).parent / "data.npz") as data:
        x0, label = data["x0"], data["label"]
    samples = model.sample(labels=[0, 2, NUM_CLASSES], num_steps=4, seed=8)
    model.fit(x0, label, batch_size=8, shuffle=False, verbose=0)
    arrays = {f"a{i}": array for i, array in enumerate(state(model))}
    np.savez(
        target, samples=samples, after=model.sample(labels=[1, 1, 0], num_steps=4, seed=8), **arrays
    )


def test_a_loaded_model_goes_on_bit_for_bit(images, repo, python, tmp_path):
    """In another process, from the file alone: same samples, and then the same training."""
    x0, label = images
    np.savez(tmp_path / "data.npz", x0=x0, label=label)
    model = DiffusionModel(make_unet(num_classes=NUM_CLASSES), LINEAR, seed=4)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(x0[:16], label[:16], batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, keras, keras_diffusion\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "import test_training\n"
        "test_training.go_on(model, sys.argv[2])\n"
    )
    words = ("-c", code, tmp_path / "model.keras", tmp_path / "loaded.npz")
    other = python.start(*words, cwd=repo / "tests")
    go_on(model, tmp_path / "undisturbed.npz")  # meanwhile
    _, error = other.communicate()
    assert other.returncode == 0, error

    with np.load(tmp_path / "undisturbed.npz") as ours, np.load(tmp_path / "loaded.npz") as theirs:
        assert set(ours) == set(theirs) and len(ours) > 100
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert int(model.step.numpy()) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "schedule": schedules.table_schedule([1, 0.5, 0.1], [0, 0.5, 1.2]),
            "prediction": "v",
            "label_dropout": 0.25,
            "ema_decay": None,
            "seed": 5,
        },
        {"schedule": FLOW, "prediction": "flow", "ema_decay": 0.9},
    ],
)
def test_config_round_trip(arguments):
    model = DiffusionModel(
        make_tiny(),
        arguments.get("schedule", LINEAR),
        **{k: v for k, v in arguments.items() if k != "schedule"},
    )
    config = json.dumps(model.get_config())
    again = DiffusionModel.from_config(json.loads(config))
    assert json.dumps(again.get_config()) == config
    assert (again.ema_network is None) == (model.ema_network is None)
    np.testing.assert_array_equal(again.schedule.sigma, model.schedule.sigma)


# ---- precision


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_every_time_is_told_from_the_next_in_half_precision(policy):
    """bfloat16 holds t/T to one part in 256: 299/300 and 300/300 would be one."""
    network = nn.unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    embed = keras.Model(network.input["t"], network.get_layer("t1_gelu").output)
    hidden = embed(np.arange(1, 301, dtype=np.float32) / 300).numpy()
    assert hidden.dtype == np.float32 and len(np.unique(hidden, axis=0)) == 300
    assert network.get_layer("t1").output.dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_half_precision_trains(policy, images):
    x0, label = images
    network = nn.unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    assert network.get_layer("enter_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert all(v.dtype == "float32" for v in network.weights)
    model = DiffusionModel(network, LINEAR)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True)
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    before = network.get_weights()
    losses = [train(model, x0, label) for _ in range(3)]
    assert np.isfinite(losses).all() and max(losses) < 5
    after = network.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert np.abs(after[0] - before[0]).max() > 1e-4  # no step was skipped for an overflow
    out = model.denoise(x0, np.full(len(x0), 0.5, np.float32), label)
    assert out.dtype == "float32"
    images = model.sample(labels=[0, 1], num_steps=2)
    assert images.dtype == np.float32 and np.isfinite(images).all()


# ---- sampling


@pytest.fixture(scope="module")
def trained(images):
    """A model after a few steps, so that its average, its network and its initial values differ."""
    x0, label = images
    model = make_model()
    for _ in range(5):
        train(model, x0, label)
    return model


PICTURE = np.linspace(0, 1, 64, dtype=np.float32).reshape(IMAGE_SHAPE)


@pytest.mark.parametrize(
    ("ask", "scale", "make", "start"),
    [
        ({}, 5.0, {}, {}),
        ({"guidance_scale": 1.0}, 1.0, {}, {}),
        ({"guidance_scale": 2}, 2.0, {}, {}),
        ({"guidance_scale": [0, 1, 2, 3]}, [0, 1, 2, 3], {}, {}),
        ({"guidance_interval": (0.1, 0.6)}, 5.0, {}, {"guidance_interval": (0.1, 0.6)}),
        (
            {"guidance_rescale": 0.5, "clip": False},
            5.0,
            {},
            {"guidance_rescale": 0.5, "clip": False},
        ),
        ({"spacing": "lam", "eta": 0.5}, 5.0, {"spacing": "lam", "eta": 0.5}, {}),
        ({"start_from": PICTURE, "strength": 0.5}, 5.0, {"strength": 0.5}, {"start_from": PICTURE}),
        (
            {"start_from": PICTURE, "keep": PICTURE > 0.5},
            5.0,
            {},
            {"start_from": PICTURE, "keep": PICTURE > 0.5},
        ),
        (
            {"to_seed": 9, "fraction": [0, 0.2, 0.5, 1]},
            5.0,
            {},
            {"to_seed": 9, "fraction": [0, 0.2, 0.5, 1]},
        ),
        ({"indices": [5, 1, 2, 3]}, 5.0, {}, {"indices": [5, 1, 2, 3]}),
    ],
)
def test_samples_are_the_numpy_loops(ask, scale, make, start, trained):
    """Of the averaged network in inference mode; guided by 5 unless told otherwise. Every argument arrives."""
    labels = [1, 0, 1, NUM_CLASSES]

    def network(x, t, label):
        return trained.ema_network({"x": x, "t": t, "label": label}, training=False).numpy()

    plan = sampling.plan(LINEAR, "eps", sampler="ddim", num_steps=6, **make)
    size = {"image_shape": IMAGE_SHAPE, "num_classes": NUM_CLASSES}
    expected = sampling.sample(network, plan, labels, guidance_scale=scale, seed=2, **size, **start)
    before, seen = state(trained), []
    ours = trained.sample(labels=labels, sampler="ddim", num_steps=6, seed=2, **ask)
    rows = trained.sample(
        labels=labels, sampler="ddim", num_steps=6, seed=2, callback=seen.append, **ask
    )
    np.testing.assert_allclose(rows, ours, atol=5e-5)
    assert [estimate.row for estimate in seen] == list(range(6))
    np.testing.assert_allclose(ours, expected, atol=5e-5)
    assert np.mean((ours > 0) & (ours < 1)) > 0.02
    for a, b in zip(before, state(trained), strict=True):
        np.testing.assert_array_equal(a, b)


def test_image_k_of_three_is_image_k_of_seven(trained):
    few = trained.sample(labels=[2, 0, 2], num_steps=5, seed=1)
    many = trained.sample(labels=[2, 0, 2, 1, 1, 2, 0], num_steps=5, seed=1)
    np.testing.assert_allclose(few, many[:3], atol=1e-5)
    chosen = trained.sample(labels=[2], indices=[1], num_steps=5, seed=1)
    np.testing.assert_allclose(chosen, many[2:3], atol=1e-5)
    assert np.abs(many[0] - many[2]).max() > 0.01
    assert np.abs(trained.sample(labels=[2], num_steps=5, seed=2) - few[:1]).max() > 0.01


def test_a_bar_on_request(trained, capsys):
    trained.sample(labels=[0, 1], num_steps=3)
    assert not capsys.readouterr().err
    trained.sample(labels=[0, 1], num_steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_sampling_twice_does_not_retrace():
    model = make_model()
    traces, denoise = [], model.denoise

    def count(*arguments, **options):
        traces.append(1)
        return denoise(*arguments, **options)

    model.denoise = count
    first = model.sample(labels=[0, 1], num_steps=4)
    assert traces  # Python runs while a graph is traced, and only then
    traces.clear()
    again = model.sample(labels=[0, 1], num_steps=4)
    model.sample(labels=[2, 2], num_steps=4, seed=9, guidance_scale=3.0, sampler="ddpm")
    assert not traces
    np.testing.assert_array_equal(first, again)
    model.sample(labels=[0, 1, 2], num_steps=5)  # now it knows that shapes vary
    traces.clear()
    model.sample(labels=[0, 1, 2, 2], num_steps=7)
    assert not traces


def test_a_step_is_traced_once(images):
    """Not once more to find the optimizer's variables, which takes seconds with the course's network."""
    x0, label = images
    model = DiffusionModel(make_tiny(), LINEAR)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    traces, corrupt = [], model.corrupt
    model.corrupt = lambda x0, *, step: traces.append(1) or corrupt(x0, step=step)
    for _ in range(2):
        model.fit(x0[:8], label[:8], batch_size=4, verbose=0)
    assert len(traces) == 1  # Python runs while a graph is traced, and only then
    assert int(model.step.numpy()) == 4


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_the_scale_of_the_loss_outlives_every_fit_and_file(policy, images, tmp_path):
    x0, label = images
    network = nn.unet(width=4, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    model = DiffusionModel(network, LINEAR)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(x0[:8], label[:8], batch_size=4, verbose=0)
    model.optimizer.dynamic_scale.assign(64.0)
    count = len(model.optimizer.variables)
    for _ in range(2):
        model.fit(x0[:8], label[:8], batch_size=4, verbose=0)
        assert float(model.optimizer.dynamic_scale.numpy()) == 64
        assert len(model.optimizer.variables) == count
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        model.run_eagerly = True


def test_samples_after_more_training_are_others(images):
    """The compiled loop reads the weights; it doesn't freeze them."""
    x0, label = images
    model = make_model()
    before = model.sample(labels=[0, 1], num_steps=3)
    for _ in range(3):
        train(model, x0, label)
    assert np.abs(model.sample(labels=[0, 1], num_steps=3) - before).max() > 0.01


def test_a_network_without_classes_samples_by_number():
    model = make_model(make_tiny(num_classes=0))
    images = model.sample(num_images=3, num_steps=3)
    assert images.shape == (3, *IMAGE_SHAPE)
    assert 0 <= images.min() and images.max() <= 1
    np.testing.assert_allclose(model.sample(labels=[0, 0, 0], num_steps=3), images, atol=1e-6)


def test_num_images_of_a_class_model_are_of_no_class(trained):
    images = trained.sample(num_images=2, num_steps=3)
    expected = trained.sample(labels=[NUM_CLASSES] * 2, num_steps=3, guidance_scale=0.0)
    np.testing.assert_allclose(images, expected, atol=1e-5)


# ---- what is refused

BATCH = np.zeros((4, *IMAGE_SHAPE), np.float32)
LABELS = np.zeros(4, np.int32)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((BATCH.astype(np.uint8), LABELS), "images: expected floats in .* got uint8"),
        ((BATCH[..., 0], LABELS), "images: expected .*8, 8, 1.*, got"),
        ((BATCH[:, :4], LABELS), "images: expected .*8, 8, 1.*, got"),
        ((BATCH,), "labels: expected one integer an image, got images alone"),
        ((BATCH, np.eye(4, 3)), r"labels: expected one integer an image, got \(3,\).*argmax"),
        ((BATCH, LABELS, LABELS), "fit: expected images and labels, got sample weights too"),
    ],
)
@pytest.mark.parametrize(
    ("method", "run_eagerly"), [("fit", True), ("fit", False), ("evaluate", False)]
)
def test_data_errors(data, expected, run_eagerly, method):
    model = make_model(ema_decay=None)
    model.compile(optimizer="sgd", run_eagerly=run_eagerly)
    before = state(model)
    with pytest.raises(ValueError, match=expected) as error:
        getattr(model, method)(tf.data.Dataset.from_tensors(data), verbose=0)
    one_line(error)
    assert int(model.step.numpy()) == 0
    for a, b in zip(before, model.network.get_weights(), strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "sample: expected either labels or num_images"),
        ({"labels": [0], "num_images": 1}, "sample: expected either labels or num_images"),
        ({"num_images": 0}, "num_images: expected a positive integer, got 0"),
        ({"num_images": 1.5}, "num_images: .* got 1.5"),
        ({"labels": [NUM_CLASSES + 1]}, "labels: expected 0..3 .* got 4"),
        ({"labels": []}, "labels: expected a list"),
        ({"labels": [0], "sampler": "plms"}, "sampler: .* got 'plms'"),
        ({"labels": [0], "num_steps": 301}, "num_steps: .* got 301"),
        ({"labels": [0], "sampler": "ddim", "variance": "beta"}, "got 'variance'"),
        ({"labels": [0], "seed": -1}, "seed: .* got -1"),
        ({"labels": [0], "spacing": "cubic"}, "spacing: .* got 'cubic'"),
        ({"labels": [0], "strength": 2}, "strength: .* got 2"),
        ({"labels": [0], "guidance_scale": [1, 2]}, "guidance_scale: .* got .1, 2."),
        ({"labels": [0], "guidance_interval": (1, 0)}, "guidance_interval: .* got .1, 0."),
        ({"labels": [0], "guidance_rescale": -1}, "guidance_rescale: .* got -1"),
        ({"labels": [0], "start_from": PICTURE[0]}, "start_from: .* got float32"),
        ({"labels": [0], "keep": PICTURE > 0}, "keep: expected start_from as well"),
        ({"labels": [0], "fraction": [0.5]}, "fraction: expected to_seed as well"),
    ],
)
def test_sample_errors(arguments, expected, trained):
    with pytest.raises(ValueError, match=expected) as error:
        trained.sample(**arguments)
    one_line(error)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: DiffusionModel(make_tiny(), LINEAR, prediction="score"), "prediction: .*'score'"),
        (lambda: DiffusionModel(make_tiny(), LINEAR, label_dropout=1.1), "label_dropout: .* 1.1"),
        (lambda: DiffusionModel(make_tiny(), LINEAR, ema_decay=1.0), "ema_decay: .* got 1.0"),
        (lambda: DiffusionModel(make_tiny(), FLOW), "'eps' can't tell x0 where alpha = 0"),
        (lambda: DiffusionModel(make_affine(), LINEAR), "num_classes: expected the number"),
        (
            lambda: DiffusionModel(keras.Sequential([keras.Input((4,))]), LINEAR),
            "network: expected a functional Keras model",
        ),
    ],
)
def test_constructor_errors(make, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make()
    one_line(error)


# --- how a model draws where nothing is said


def test_a_model_draws_as_it_was_told_to_and_keeps_that_in_its_file(tmp_path):
    way = {"sampler": "ddim", "eta": np.float32(0.5), "spacing": np.array([300, 100, 30])}
    way |= {"guidance_scale": 2.0, "guidance_interval": (0.2, 0.6), "sharpen": None}
    model = make_model(ema_decay=None, sampling=way)
    drawn = model.sample([0, 1])
    plain = make_model(model.network, ema_decay=None)
    asked = {"sampler": "ddim", "eta": 0.5, "spacing": [300, 100, 30], "guidance_scale": 2.0}
    np.testing.assert_array_equal(
        drawn, plain.sample([0, 1], **asked, guidance_interval=(0.2, 0.6))
    )
    assert np.abs(drawn - plain.sample([0, 1])).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.sampling == model.sampling
    np.testing.assert_array_equal(again.sample([0, 1]), drawn)
    # What is asked goes before, and takes along what doesn't go with it.
    everywhere = model.sample([0, 1], sampler="ddpm", num_steps=4, guidance_interval=(0, 1))
    expected = plain.sample([0, 1], sampler="ddpm", num_steps=4, guidance_scale=2.0)
    np.testing.assert_array_equal(everywhere, expected)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ("ddim", "sampling: expected a dict of arguments of sample, got 'ddim'"),
        ({"seed": 3}, "defaults: expected some of ('sampler'"),
        ({"strength": 0.5}, "defaults: expected some of ('sampler'"),
        ({"num_steps": 301}, "num_steps: expected an integer in 1..300, got 301"),
        ({"guidance_scale": 1e39}, "defaults: guidance_scale: expected another type"),
        ({"guidance_interval": [0.6, 0.2]}, "guidance_interval: expected (low, high) of t/T"),
        ({"sampler": "ddim", "variance": "beta"}, "expected options ('eta',), got 'variance'"),
    ],
)
def test_ways_to_draw_that_are_none_are_refused(sampling, message):
    with pytest.raises(ValueError) as caught:
        make_model(sampling=sampling)
    assert message in one_line(caught)


def test_files_from_before_models_said_how_they_draw_are_read():
    model = make_model(ema_decay=None)
    config = model.get_config()
    del config["sampling"]
    assert DiffusionModel.from_config(config).sampling == model.sampling


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((2, 8, 8, 1), 255.0), [0, 1], "images: expected 0..1, got 255..255; divide by 255"),
        (np.full((2, 8, 8, 1), -0.5), [0, 1], "images: expected 0..1, got -0.5..-0.5"),
        (np.full((2, 8, 8, 1), np.nan), [0, 1], "images: expected 0..1, got nan..nan"),
        (np.zeros((2, 8, 8, 1)), [0, 4], "labels: expected 0..3, got 0..4; 3 means no class"),
        (np.zeros((2, 8, 8, 1)), [-1, 2], "labels: expected 0..3, got -1..2; 3 means no class"),
    ],
)  # fmt: skip
def test_arrays_out_of_range_are_refused(class_network, images, labels, message):
    model = DiffusionModel(class_network, schedules.linear_schedule(10), ema_decay=None)
    model.compile(optimizer="adam")
    with pytest.raises(ValueError) as error:
        model.fit(images.astype(np.float32), np.array(labels), verbose=0)
    assert one_line(error) == message
