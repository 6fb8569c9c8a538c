"""The network against the course's, in PyTorch; the blocks against their formulas."""

import contextlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_unet, one_line

from keras_diffusion import nn

KINDS = {
    "plain": {"conditioning": None},
    "time-add": {"conditioning": "add"},
    "time-multiply": {"conditioning": "multiply"},
    "class": {"num_classes": 3},
    "class-multiply": {"num_classes": 3, "conditioning": "multiply"},
}
CASES = [(kind, (8, 8, 1)) for kind in KINDS] + [("class", (28, 28, 1)), ("class", (32, 32, 3))]


def count(network):
    return sum(math.prod(v.shape) for v in network.trainable_weights)


@pytest.mark.parametrize(
    ("width", "kind", "expected"),
    [
        (64, {"conditioning": None}, 1_975_361),
        (64, {}, 1_996_417),
        (64, {"num_classes": 10}, 2_019_201),
        (128, {"conditioning": None}, 7_891_073),
        (128, {}, 7_974_145),
        (128, {"num_classes": 10}, 8_060_673),
    ],
)
def test_parameter_counts_are_the_courses(width, kind, expected):
    assert count(nn.unet(width=width, **kind)) == expected


def make_pair(kind, image_shape):
    """Our network, the course's with the same weights, and a batch for each: (keras, torch, dict, tuple)."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)  # on one it takes kernels that round more: 2e-5 of outputs about 1
    from reference_unet import port

    from keras_diffusion.benchmarking.peer_unet import UNet

    arguments = KINDS[kind]
    network = make_unet(image_shape=image_shape, **arguments)
    reference = port(
        network,
        UNet(
            width=8,
            num_classes=arguments.get("num_classes", 0),
            conditioning=arguments.get("conditioning", "add"),
            side=image_shape[0],
            channels=image_shape[2],
        ),
    )
    rng = np.random.default_rng(1)
    inputs = {
        "x": rng.normal(size=(6, *image_shape)).astype(np.float32),
        "t": rng.uniform(size=6).astype(np.float32),
        "label": np.array([0, 1, 2, 3, 3, 0], np.int32),  # 3: no class
    }
    inputs = {name: inputs[name] for name in network.input}
    theirs = {name: torch.as_tensor(value) for name, value in inputs.items()}
    theirs["x"] = theirs["x"].permute(0, 3, 1, 2)
    return network, reference, inputs, theirs


@pytest.mark.parametrize(("kind", "image_shape"), CASES)
def test_inference_equals_the_courses_network(kind, image_shape):
    network, reference, inputs, theirs = make_pair(kind, image_shape)
    expected = reference.eval()(**theirs).permute(0, 2, 3, 1).detach().numpy()
    assert np.std(expected) > 0.01  # a constant would prove nothing
    np.testing.assert_allclose(network(inputs, training=False), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "image_shape"), CASES)
def test_a_training_step_equals_the_courses_network(kind, image_shape):
    """Output, gradients of every weight, and the moving statistics afterwards."""
    network, reference, inputs, theirs = make_pair(kind, image_shape)
    from reference_unet import counterparts, to_torch

    before = {v.path: v.numpy() for v in network.weights}
    target = np.random.default_rng(2).normal(size=inputs["x"].shape).astype(np.float32)
    with tf.GradientTape() as tape:
        out = network(inputs, training=True)
        loss = tf.reduce_mean(tf.square(target - out))
    weights = network.trainable_weights
    gradients = tape.gradient(loss, [v.value for v in weights])

    expected = reference.train()(**theirs)
    ((expected - to_images(target)) ** 2).mean().backward()
    np.testing.assert_allclose(out, expected.permute(0, 2, 3, 1).detach().numpy(), atol=1e-5)

    pairs = {v.path: (v, tensor) for v, tensor in counterparts(network, reference)}
    for variable, gradient in zip(weights, gradients, strict=True):
        theirs = pairs[variable.path][1].grad
        error = (to_torch(gradient.numpy()) - theirs).norm()
        assert error < 1e-4 * theirs.norm() + 1e-6, (variable.path, error, theirs.norm())
    for variable in network.non_trainable_weights:
        assert np.abs(variable.numpy() - before[variable.path]).max() > 1e-3, variable.path
        np.testing.assert_allclose(
            variable.numpy(), pairs[variable.path][1].numpy(), atol=1e-5, err_msg=variable.path
        )


def to_images(array):
    import torch

    return torch.as_tensor(array).permute(0, 3, 1, 2)


def test_initial_weights_are_drawn_as_the_courses_are():
    """Uniform, between the bounds that PyTorch's layers choose."""
    torch = pytest.importorskip("torch")
    from reference_unet import counterparts

    from keras_diffusion.benchmarking.peer_unet import UNet

    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    network = nn.unet(width=8, num_classes=10)
    reference = UNet(width=8, num_classes=10)
    for variable, tensor in counterparts(network, reference):
        ours, theirs = variable.numpy().ravel(), tensor.detach().numpy().ravel()
        if variable.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            np.testing.assert_array_equal(ours, theirs)
        elif ours.size >= 500:
            assert abs(np.abs(ours).max() / np.abs(theirs).max() - 1) < 0.02, variable.path
            assert abs(ours.std() / theirs.std() - 1) < 0.1, variable.path
    biases = [v.numpy() for v in network.weights if v.path.endswith("_bn/bias")]
    assert all(np.ptp(bias) > 0 for bias in biases)


def test_spreading_is_the_transposed_convolution():
    """Forward and both gradients, as the product and as the operation that converters get."""
    x = tf.random.stateless_normal((3, 1, 1, 6), [0, 1])
    layer = nn.blocks.Spread(5, (2, 4), strides=(2, 4), use_bias=False)
    plain = keras.layers.Conv2DTranspose(5, (2, 4), strides=(2, 4), use_bias=False)
    layer.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    weights = tf.random.stateless_normal((3, 2, 4, 5), [0, 2])
    found = []
    for some in (layer, plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = some(x)
            loss = tf.reduce_sum(out * weights)
        found.append((out, *tape.gradient(loss, [x, some.kernel.value])))
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    kinds = []
    for how in (contextlib.nullcontext(), nn.blocks.as_operations()):
        with how:
            graph = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 1, 1, 6))).graph
        kinds.append({operation.type for operation in graph.get_operations()})
    assert "MatMul" in kinds[0] and "Conv2DBackpropInput" not in kinds[0]
    assert "MatMul" not in kinds[1] and "Conv2DBackpropInput" in kinds[1]


def test_the_null_label_is_the_zero_vector(class_network):
    vector = class_network.get_layer("class_vector")(np.array([0, 2, 3], np.int32))
    np.testing.assert_array_equal(vector, [[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    # What the c-blocks answer to it comes from their biases alone, and isn't nothing.
    for place in (1, 2):
        first, second = (class_network.get_layer(f"c{place}_linear{i}") for i in (1, 2))
        answer = second(nn.gelu(first(vector)))
        alone = second(nn.gelu(first.bias.value[None]))
        np.testing.assert_allclose(answer[2], alone[0], atol=1e-6)
        assert np.abs(answer[2]).max() > 0.01
        assert np.abs(answer[2] - answer[0]).max() > 0.01


def test_images_of_a_batch_do_not_meet_in_inference(class_network):
    rng = np.random.default_rng(3)
    inputs = {
        "x": rng.normal(size=(4, 8, 8, 1)).astype(np.float32),
        "t": np.array([0.1, 0.4, 0.7, 1.0], np.float32),
        "label": np.array([0, 1, 2, 3], np.int32),
    }
    together = class_network(inputs, training=False)
    for k in range(4):
        alone = class_network({name: v[k : k + 1] for name, v in inputs.items()}, training=False)
        np.testing.assert_allclose(together[k : k + 1], alone, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_batch_norm(dtype, jit_compile):
    """By the formula, under XLA too: the moving variance is the unbiased one, the bias shows in the moving mean alone."""
    layer = nn.BatchNorm(momentum=0.9, dtype=dtype)
    x = np.random.default_rng(0).normal(0.5, 2, (2, 3, 3, 4))
    x = tf.cast(x, dtype)
    layer.build(x.shape)
    bias, gamma, beta = (np.linspace(a, a + 1, 4, dtype=np.float32) for a in (0.5, 1, -1))
    layer.bias.assign(bias)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    y = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)(x)

    value = x.numpy().astype(np.float64).reshape(-1, 4)
    expected = (value - value.mean(0)) / np.sqrt(value.var(0) + 1e-5) * gamma + beta
    rounding = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.float64(y.numpy()).reshape(-1, 4), expected, atol=rounding, rtol=rounding
    )
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * (value.mean(0) + bias), rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), 0.9 + 0.1 * value.var(0, ddof=1), rtol=1e-5
    )
    infer = tf.function(lambda x: layer(x, training=False), jit_compile=jit_compile)(x)
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    expected = (value + bias - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(
        np.float64(infer.numpy()).reshape(-1, 4), expected, atol=2 * rounding, rtol=rounding
    )


def exact_gelu(x):
    """GELU and its derivative in float64; erfc keeps the far left tail."""
    phi = 0.5 * math.erfc(-x / math.sqrt(2))
    return x * phi, phi + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gelu_value_and_gradient(jit_compile):
    x = np.concatenate([np.linspace(-12, 12, 997), [-1e18, -1e4, -50, 50, 1e4, 1e18]])
    x = x.astype(np.float32)

    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = nn.gelu(x)
        return y, tape.gradient(y, x, output_gradients=tf.fill(tf.shape(x), 3.0))

    y, dy = both(tf.constant(x))
    value, derivative = np.transpose([exact_gelu(float(u)) for u in x])
    # 1 + erf is off by float32's epsilon (XLA's erf ends at 1 - 1.8e-7), and the left tail by |x| times that.
    assert (np.abs(y.numpy() - value) <= 2e-7 * np.abs(x) + 1e-7).all()
    np.testing.assert_allclose(dy, 3 * derivative, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_gelu_keeps_half_precision(dtype, rounding):
    x = tf.cast(np.linspace(-6, 6, 101), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = nn.gelu(x)
    dy = tape.gradient(y, x)
    assert y.dtype == dy.dtype == x.dtype
    value, derivative = np.transpose([exact_gelu(float(u)) for u in x.numpy()])
    np.testing.assert_allclose(np.float64(y.numpy()), value, rtol=rounding, atol=1e-5)
    np.testing.assert_allclose(np.float64(dy.numpy()), derivative, rtol=rounding, atol=1e-4)


def test_save_and_load(class_network, tmp_path):
    class_network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    rng = np.random.default_rng(4)
    inputs = {
        "x": rng.normal(size=(3, 8, 8, 1)).astype(np.float32),
        "t": np.array([0.2, 0.5, 1.0], np.float32),
        "label": np.array([0, 2, 3], np.int32),
    }
    np.testing.assert_array_equal(loaded(inputs), class_network(inputs))
    for ours, theirs in zip(class_network.layers, loaded.layers, strict=True):
        assert ours.get_config() == theirs.get_config()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": 0}, "width: expected a positive integer, got 0"),
        ({"num_classes": 0}, "num_classes: expected a positive integer or None, got 0"),
        ({"conditioning": "film"}, "conditioning: expected one of"),
        ({"conditioning": None, "num_classes": 10}, "conditioning: a network with classes"),
        ({"image_shape": (30, 28, 1)}, "image_shape: expected .* got \\(30, 28, 1\\)"),
        ({"image_shape": (28, 28)}, "image_shape: expected .* got \\(28, 28\\)"),
        ({"image_shape": (0, 28, 1)}, "image_shape: expected"),
    ],
)
def test_errors(arguments, expected):
    with pytest.raises(ValueError, match=expected) as error:
        nn.unet(**arguments)
    one_line(error)
