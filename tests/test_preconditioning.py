"""The linear guess beside a network: the best one there is, what it leaves of variance 1, and every form that it takes."""

import keras
import numpy as np
import onnxruntime
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, one_line, roughen, under_policy

import keras_diffusion as kd
from keras_diffusion import nn, predictions
from keras_diffusion.exporting import convert, denoiser
from keras_diffusion.nn.stages import stages
from keras_diffusion.sampling import onnx_model

MEAN, STD = 0.3, 0.2
SCHEDULES = {"linear": kd.linear_schedule(50), "cosine": kd.cosine_schedule(50), "flow": kd.flow_schedule(50)}  # fmt: skip
# Where nothing of the image is left, eps is known: nothing is left to learn of it.
CASES = [
    (schedule, prediction, t)
    for schedule in SCHEDULES
    for prediction in predictions.NAMES
    for t in (2, 25, 45, 50)
    if prediction != "eps" or SCHEDULES[schedule].alpha[t] > 0.01
]


def wrap(schedule=SCHEDULES["cosine"], prediction="v", network=None, **arguments):
    network = network or nn.modulated_unet(
        width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE
    )
    return nn.precondition(
        network, schedule, **{"prediction": prediction, "mean": MEAN, "std": STD, **arguments}
    )


def batch():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(4, *IMAGE_SHAPE)).astype(np.float32),
        "t": np.array([0.1, 0.5, 0.9, 1.0], np.float32),
        "label": np.array([0, 1, 2, NUM_CLASSES], np.int32),
    }


def pixels(schedule, prediction, t):
    """Many pixels N(MEAN, STD²) at time t: xt [N, 1, 1, 1], the target, and the layer's three outputs, all flat."""
    rng = np.random.default_rng(1)
    x0, eps = MEAN + STD * rng.normal(size=100_000), rng.normal(size=100_000)
    alpha, sigma = schedule.alpha[t], schedule.sigma[t]
    xt = alpha * x0 + sigma * eps
    layer = nn.Precondition(schedule, prediction=prediction, mean=MEAN, std=STD)
    ratio = np.full(len(xt), t / schedule.num_train_steps, np.float32)
    u, guess, scale = layer(xt[:, None, None, None].astype(np.float32), ratio)
    target = predictions.target(prediction, alpha, sigma, x0=x0, eps=eps)
    return target, *(np.asarray(value).reshape(-1) for value in (u, guess, scale))


@pytest.mark.parametrize(("schedule", "prediction", "t"), CASES)
def test_on_gaussian_pixels_the_guess_is_the_best_and_leaves_unit_variance(schedule, prediction, t):
    target, u, guess, scale = pixels(SCHEDULES[schedule], prediction, t)
    assert abs(u.mean()) < 0.02 and u.std() == pytest.approx(1, rel=0.02)
    left = (target - guess) / scale
    assert abs(left.mean()) < 0.02 and left.std() == pytest.approx(1, rel=0.02)
    assert abs(np.mean(left * u)) < 0.02  # the best: nothing linear in u is left


@pytest.mark.parametrize("prediction", ["flow", "x0", "v"])
@pytest.mark.parametrize("steps", [1, 3])
def test_between_the_times_of_a_continuous_schedule_too(prediction, steps):
    schedule, rng = kd.flow_schedule(steps), np.random.default_rng(2)
    x0, eps = MEAN + STD * rng.normal(size=200_000), rng.normal(size=200_000)
    t = rng.uniform(0.05, 1, size=200_000)  # a time for each pixel, as training draws them
    alpha, sigma = 1 - t, t
    xt = (alpha * x0 + sigma * eps).astype(np.float32)
    layer = nn.Precondition(schedule, prediction=prediction, mean=MEAN, std=STD)
    _, guess, scale = layer(xt[:, None, None, None], t.astype(np.float32))
    target = predictions.target(prediction, alpha, sigma, x0=x0, eps=eps)
    left = (target - np.asarray(guess).reshape(-1)) / np.asarray(scale).reshape(-1)
    for part in np.array_split(np.argsort(t), 5):
        assert left[part].std() == pytest.approx(1, rel=0.03)


def test_where_nothing_of_the_image_is_left_the_output_is_the_networks_alone():
    network = wrap(kd.cosine_schedule(50))
    inputs = batch()
    more = {**inputs, "x": inputs["x"] + 1}
    layer = network.get_layer("precondition")
    (_, guess, _), (_, other, _) = (layer(v["x"], v["t"]) for v in (inputs, more))
    moved = np.abs(np.asarray(other) - np.asarray(guess)).max(axis=(1, 2, 3))
    assert moved[-1] < 1e-3 < 0.05 < moved[:3].max()
    assert np.allclose(np.asarray(guess)[-1], -MEAN, atol=5e-3)  # v = -x0 there


def test_the_output_is_the_formula():
    inner = roughen(nn.modulated_unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE))
    network, inputs = wrap(network=inner), batch()
    schedule, t = SCHEDULES["cosine"], [5, 25, 45, 50]
    alpha, sigma = (table[t][:, None, None, None] for table in (schedule.alpha, schedule.sigma))
    var = alpha**2 * STD**2 + sigma**2
    centred = inputs["x"] - alpha * MEAN
    left = np.asarray(inner({**inputs, "x": (centred / var**0.5).astype(np.float32)}))
    x0 = MEAN + alpha * STD**2 / var * centred + STD * sigma / var**0.5 * left
    eps = (inputs["x"] - alpha * x0) / sigma
    np.testing.assert_allclose(network(inputs), alpha * eps - sigma * x0, atol=2e-5)


def test_with_unit_weights_the_loss_of_a_network_that_adds_nothing_is_one():
    rng = np.random.default_rng(0)
    x0 = (MEAN + STD * rng.normal(size=(2000, *IMAGE_SHAPE))).astype(np.float32)
    inner = nn.modulated_unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    last = inner.get_layer("last")
    last.set_weights([0 * weight for weight in last.get_weights()])
    model = kd.DiffusionModel(
        wrap(network=inner), SCHEDULES["cosine"], prediction="v", data_std=STD, ema_decay=None
    )
    model.compile(jit_compile=False)
    loss = model.evaluate(x0, np.zeros(2000, np.int32), batch_size=500, verbose=0)
    assert loss == pytest.approx(1, rel=0.02)
    plain = kd.DiffusionModel(wrap(network=inner), SCHEDULES["cosine"], prediction="v")
    plain.compile(jit_compile=False)
    assert plain.evaluate(x0, np.zeros(2000, np.int32), batch_size=500, verbose=0) < 0.5


@pytest.mark.parametrize("conditioning", ["add", "modulate"])
def test_it_trains_is_saved_and_draws_the_same(conditioning, tmp_path):
    sizes = {"width": 8, "num_classes": NUM_CLASSES, "image_shape": IMAGE_SHAPE}
    inner = (
        nn.modulated_unet(**sizes)
        if conditioning == "modulate"
        else nn.unet(conditioning=conditioning, **sizes)
    )
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x0 = rng.random((16, *IMAGE_SHAPE)).astype(np.float32)
    label = np.arange(16) % NUM_CLASSES
    model = kd.DiffusionModel(
        wrap(network=inner), SCHEDULES["cosine"], prediction="v", data_std=STD, ema_decay=0.5
    )
    assert model.num_classes == NUM_CLASSES  # the classes of the network inside
    model.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=False)
    losses = model.fit(x0, label, batch_size=16, epochs=60, verbose=0).history["loss"]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.data_std == STD
    for one, other in zip(again.network.weights, model.network.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    averages = zip(model.ema_network.weights, model.network.weights, strict=True)
    assert any(np.abs(average - weight).max() > 1e-4 for average, weight in averages)
    asked = {"labels": [0, 1, 2], "num_steps": 4, "guidance_scale": 2.0}
    np.testing.assert_allclose(again.sample(**asked), model.sample(**asked), atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_every_precision_is_exported_in_float32(policy):
    network = under_policy(policy, lambda: roughen(wrap()))
    same = wrap()
    same.set_weights(network.get_weights())
    model = kd.DiffusionModel(network, SCHEDULES["cosine"], prediction="v", ema_decay=None)
    made = denoiser.to_onnx(convert.in_float32(network), denoiser.signature(model))
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = np.asarray(same(batch(), training=False))
    assert np.abs(session.run(["out"], batch())[0] - expected).max() < 1e-4
    assert network.output.dtype == "float32"
    u, guess, _ = network.get_layer("precondition")(batch()["x"], batch()["t"])
    assert u.dtype == guess.dtype == "float32"


def test_every_format_of_export_draws_as_the_model(tmp_path):
    network = under_policy("mixed_bfloat16", lambda: roughen(wrap()))
    model = kd.DiffusionModel(network, SCHEDULES["cosine"], prediction="v", ema_decay=None)
    folder = tmp_path / "export"
    also = ("float16", "int8", "tflite")
    convert.convert(model, folder, training={}, class_names="abc", also=also, say=lambda line: None)
    exact = kd.DiffusionModel(
        convert.in_float32(network), SCHEDULES["cosine"], prediction="v", ema_decay=None
    )
    asked = {"num_steps": 5, "guidance_scale": 2.0, "seed": 3}
    expected = exact.sample([0, 1, 2], **asked)
    for name in ("denoiser.onnx", "sampler.onnx", "denoiser.float16.onnx"):
        images = onnx_model.load(folder / name).sample([0, 1, 2], **asked)
        assert np.abs(images - expected).max() < (5e-3 if "float16" in name else 1e-4)


@pytest.mark.parametrize(("name", "value"), [
    ("std", 0), ("std", -1.0), ("std", True), ("std", "1"), ("std", np.inf), ("mean", None), ("mean", np.nan),
    ("prediction", "score"),
])  # fmt: skip
def test_it_refuses_numbers_that_are_none(name, value):
    with pytest.raises(ValueError) as error:
        wrap(**{name: value})
    assert one_line(error).startswith(f"{name}: expected")


def test_it_refuses_a_network_that_is_not_told_the_time():
    x = keras.Input(IMAGE_SHAPE, name="x")
    with pytest.raises(ValueError) as error:
        wrap(network=keras.Model({"x": x}, keras.layers.Conv2D(1, 3, padding="same")(x)))
    assert one_line(error).startswith("network: expected")


@pytest.mark.parametrize(("name", "arguments"), [
    ("schedule", {"schedule": kd.cosine_schedule(40)}),
    ("prediction", {"prediction": "x0"}),
    ("data_std", {"data_std": 0.5}),
])  # fmt: skip
def test_a_model_is_of_what_its_network_is_preconditioned_for(name, arguments):
    given = {"schedule": SCHEDULES["cosine"], "prediction": "v", **arguments}
    with pytest.raises(ValueError) as error:
        kd.DiffusionModel(wrap(), **given)
    assert one_line(error).startswith(f"{name}: expected")


@pytest.mark.parametrize("arguments", [{"data_std": 0}, {"data_std": "1"}, {"data_std": 0.3, "min_snr": 5.0}])  # fmt: skip
def test_one_weight_of_the_loss_and_a_positive_one(arguments):
    with pytest.raises(ValueError) as error:
        kd.DiffusionModel(wrap(), SCHEDULES["cosine"], prediction="v", **arguments)
    assert "data_std" in one_line(error)


def test_its_stages_are_the_networks_inside_between_its_own():
    found = stages(wrap())
    names = [name for name, *_ in found]
    assert names[:2] == ["xt", "x"] and names[-2:] == ["out", "preconditioned"]
    inside = stages(nn.modulated_unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE))
    assert found[2:-1] == inside[1:]
    for k, (_, _, _, inputs) in enumerate(found):
        assert set(inputs) <= set(names[:k])
