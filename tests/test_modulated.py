"""Our own network: time and class reach every block, by the formula, in every form that a network takes."""

import math

import keras
import numpy as np
import onnxruntime
import pytest
from conftest import IMAGE_SHAPE, NUM_CLASSES, one_line, roughen, under_policy

import keras_diffusion as kd
from keras_diffusion import nn
from keras_diffusion.exporting import convert, denoiser
from keras_diffusion.nn.stages import stages

PLACES = ("down1", "down2", "unflatten", "middle1", "middle2", "up1", "up2", "leave")


def make(**arguments):
    return nn.modulated_unet(
        **{"width": 8, "num_classes": NUM_CLASSES, "image_shape": IMAGE_SHAPE, **arguments}
    )


@pytest.fixture(scope="module")
def rough():
    """One with nothing left at its initial value; tests leave its weights as they are."""
    return roughen(make())


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(4, *IMAGE_SHAPE)).astype(np.float32),
        "t": np.array([0.1, 0.5, 0.9, 1.0], np.float32),
        "label": np.array([0, 1, 2, NUM_CLASSES], np.int32),
    }


def without(network, place):
    """The network's output with that place's scale and shift alone at zero."""
    layers = [network.get_layer(f"{place}_e_{kind}_linear") for kind in ("scale", "shift")]
    kept = [layer.get_weights() for layer in layers]
    try:
        for layer, weights in zip(layers, kept, strict=True):
            layer.set_weights([0 * weight for weight in weights])
        return np.asarray(network(batch(), training=False))
    finally:
        for layer, weights in zip(layers, kept, strict=True):
            layer.set_weights(weights)


def test_at_the_start_neither_time_nor_class_is_heard():
    network, inputs = make(), batch()
    other = {**inputs, "t": 1 - inputs["t"], "label": inputs["label"][::-1].copy()}
    np.testing.assert_array_equal(network(inputs), network(other))


@pytest.mark.parametrize("place", PLACES)
def test_every_block_hears(rough, place):
    out = np.asarray(rough(batch(), training=False))
    # Far from the output it counts for little; unheard, 0.
    assert np.abs(out - without(rough, place)).max() > 1e-6


@pytest.mark.parametrize("name", ["t", "label"])
@pytest.mark.parametrize("place", PLACES)
def test_time_and_class_both_reach_a_block(rough, name, place):
    inputs = batch()
    other = {**inputs, name: inputs[name][::-1].copy()}
    scale = keras.Model(rough.input, rough.get_layer(f"{place}_e_scale").output)
    assert np.abs(scale(inputs) - scale(other)).max() > 1e-3


def test_a_block_scales_and_shifts_what_goes_into_its_first_gelu(rough):
    network, inputs = rough, batch()

    def read(layer):
        return np.asarray(
            keras.Model(network.input, network.get_layer(layer).output)(inputs, training=False)
        )

    u = (1 + read("up1_e_scale")) * read("up1_conv1_bn") + read("up1_e_shift")
    phi = np.vectorize(lambda u: 0.5 * (1 + math.erf(u / math.sqrt(2))))(u)
    assert np.abs(read("up1_conv1_gelu") - u * phi).max() < 1e-5


def test_time_features():
    t = np.array([[0.0], [0.3], [1.0]], np.float32)
    angles = np.pi * t * np.array([0.5, 1, 2, 4, 8, 16])
    expected = np.concatenate([t, np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(nn.TimeFeatures()(t), expected, atol=1e-5)


def test_no_class_is_the_vector_of_zeros(rough):
    network, inputs = rough, batch()
    vector = keras.Model(network.input, network.get_layer("class_vector").output)
    np.testing.assert_array_equal(vector(inputs), np.eye(NUM_CLASSES + 1)[:, :-1][inputs["label"]])


def test_the_middle_adds_its_second_block_to_the_first(rough):
    network, inputs = rough, batch()
    names = ("middle1_conv2_gelu", "middle2_conv2_gelu", "middle")
    outputs = [network.get_layer(name).output for name in names]
    first, second, both = keras.Model(network.input, outputs)(inputs, training=False)
    np.testing.assert_allclose(both, first + second, atol=1e-6)


def test_it_trains_is_saved_and_draws_the_same(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x0 = rng.random((16, *IMAGE_SHAPE)).astype(np.float32)
    label = np.arange(16) % NUM_CLASSES
    model = kd.DiffusionModel(make(), kd.cosine_schedule(20), prediction="v", ema_decay=0.5)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=False)
    losses = model.fit(x0, label, batch_size=16, epochs=120, verbose=0).history["loss"]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    moved = model.network.get_layer("leave_e_scale_linear").get_weights()[0]
    assert np.abs(moved).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    asked = {"labels": [0, 1, 2], "num_steps": 4, "guidance_scale": 2.0}
    np.testing.assert_allclose(again.sample(**asked), model.sample(**asked), atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_every_precision_is_exported_in_float32(policy):
    network = under_policy(policy, lambda: roughen(make()))
    same = make()
    same.set_weights(network.get_weights())
    model = kd.DiffusionModel(network, kd.linear_schedule(50), ema_decay=None)
    made = denoiser.to_onnx(convert.in_float32(network), denoiser.signature(model))
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = np.asarray(same(batch(), training=False))
    assert np.abs(session.run(["out"], batch())[0] - expected).max() < 1e-4
    assert network.output.dtype == "float32"
    first = keras.Model(network.input, network.get_layer("embedding1").output)
    many = {"x": np.zeros((300, *IMAGE_SHAPE)), "label": np.zeros(300)}
    hidden = np.asarray(first({**many, "t": np.arange(1, 301, dtype=np.float32) / 300}))
    assert hidden.dtype == np.float32 and len(np.unique(hidden, axis=0)) == 300


def test_without_classes_and_in_other_sizes():
    network = roughen(make(num_classes=None, image_shape=(12, 20, 3)))
    inputs = {"x": np.ones((2, 12, 20, 3), np.float32), "t": np.array([0.1, 0.9], np.float32)}
    out = np.asarray(network(inputs))
    assert out.shape == (2, 12, 20, 3) and np.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.parametrize("arguments", [
    {"width": 0}, {"num_classes": 0}, {"image_shape": (28, 30, 1)}, {"image_shape": (28, 28)},
])  # fmt: skip
def test_it_refuses_what_no_network_has(arguments):
    with pytest.raises(ValueError) as error:
        make(**arguments)
    assert one_line(error).startswith(f"{next(iter(arguments))}: expected")


def test_its_stages_are_its_layers():
    network = make()
    found = {name: (shape, inputs) for name, _, shape, inputs in stages(network)}
    assert found["e"] == ((32,), ())
    assert found["unflatten"] == ((2, 2, 16), ("flatten", "e"))
    assert found["up2"] == ((8, 8, 8), ("up1", "down1", "e"))
    assert sum("e" in inputs for _, inputs in found.values()) == len(PLACES)
    assert found["out"][0] == IMAGE_SHAPE
