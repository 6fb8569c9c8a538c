"""Muon: which weights it takes, how far they move, and that nothing of it is lost in a file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGE_SHAPE, NUM_CLASSES, make_small, under_policy

import keras_diffusion as kd

RATE = 0.01


def step(optimizer, values, gradients):
    """The variables after a step for each list of gradients."""
    variables = [keras.Variable(value, name=f"v{k}") for k, value in enumerate(values)]
    optimizer.build(variables)
    for some in gradients:
        optimizer.apply([tf.constant(gradient) for gradient in some], variables)
    return [np.asarray(variable) for variable in variables]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (3, 3, 64, 4), (4, 4, 8, 32), (1, 1, 8, 64)])
def test_a_kernel_moves_as_far_in_every_direction_that_its_gradient_has(shape):
    """Against the exact answer, U V^T of the gradient's singular vectors, where the iteration is an approximation."""
    u, _, v = np.linalg.svd(drawn(np.prod(shape[:-1]), shape[-1]), full_matrices=False)
    s = np.geomspace(0.1, 2, min(u.shape[1], v.shape[0]), dtype=np.float32)
    gradient = ((u * s) @ v).reshape(shape)
    (after,) = step(kd.Muon(RATE), [np.zeros(shape, np.float32)], [[gradient]])
    size = 0.2 * np.sqrt(max(np.prod(shape[:-1]), shape[-1]))
    moved = u.T @ (-after / RATE / size).reshape(-1, shape[-1]) @ v.T
    assert np.abs(moved - np.diag(np.diag(moved))).max() < 0.02
    assert 0.65 < np.diag(moved).min() and np.diag(moved).max() < 1.25


def test_a_step_of_a_kernel_is_as_long_as_one_of_adam_at_a_fifth():
    (after,) = step(kd.Muon(RATE), [np.zeros((3, 3, 32, 64), np.float32)], [[drawn(3, 3, 32, 64)]])
    assert abs(np.sqrt(np.mean(after**2)) / (0.2 * RATE) - 1) < 0.25


def test_momentum_is_nesterovs():
    """The second step goes where gradient + 0.95 m does, m being 0.95 of the first gradient and the second."""
    gradient, other = drawn(3, 3, 8, 8), drawn(3, 3, 8, 8, seed=1)
    m = 0.95 * gradient + other
    (first,) = step(kd.Muon(RATE), [0 * gradient], [[gradient]])
    (both,) = step(kd.Muon(RATE), [0 * gradient], [[gradient], [other]])
    (alone,) = step(kd.Muon(RATE), [0 * gradient], [[other + 0.95 * m]])
    np.testing.assert_allclose(both - first, alone, atol=1e-5 * RATE + 1e-6)


@pytest.mark.parametrize("shape", [(16,), (16, 32), (3, 3, 1, 16), (3, 3, 16, 3)])
def test_what_is_no_kernel_between_feature_maps_is_adams(shape):
    gradients = [[drawn(*shape, seed=k)] for k in range(3)]
    start = [drawn(*shape, seed=9)]
    expected = step(keras.optimizers.Adam(RATE, epsilon=1e-8), start, gradients)
    np.testing.assert_allclose(step(kd.Muon(RATE), start, gradients), expected, atol=1e-7)


def test_a_network_of_the_course_has_both():
    network = kd.unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    optimizer = kd.Muon(RATE)
    optimizer.build(network.trainable_variables)
    pairs = zip(network.trainable_variables, optimizer.adam_velocities, strict=True)
    adams = {variable.path: velocity is not None for variable, velocity in pairs}
    assert adams["enter_conv1/kernel"] and adams["last/kernel"] and adams["t1_linear1/kernel"]
    assert not adams["enter_conv2/kernel"] and not adams["up1_up/kernel"]
    assert sum(not adam for adam in adams.values()) == 16


def test_layers_that_are_excluded_are_adams():
    network = kd.unet(width=8, num_classes=NUM_CLASSES, image_shape=IMAGE_SHAPE)
    optimizer = kd.Muon(RATE, exclude_layers=["up1"])
    optimizer.build(network.trainable_variables)
    pairs = zip(network.trainable_variables, optimizer.adam_velocities, strict=True)
    muons = {variable.path for variable, velocity in pairs if velocity is None}
    assert len(muons) == 13 and not any("up1" in path for path in muons)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_training_goes_on_from_a_file_as_if_nothing_had_been(tmp_path, policy):
    x0 = np.random.default_rng(0).random((8, *IMAGE_SHAPE)).astype(np.float32)
    label = np.arange(8) % NUM_CLASSES

    def trained(model, epochs):
        model.fit(x0, label, batch_size=8, epochs=epochs, verbose=0, shuffle=False)
        return model

    def new():
        keras.utils.set_random_seed(0)
        model = kd.DiffusionModel(
            make_small(between=1), kd.cosine_schedule(20), prediction="v", seed=0
        )
        model.compile(optimizer=kd.Muon(2e-3), jit_compile=False)
        return model

    whole = trained(under_policy(policy, new), 4)
    first = under_policy(policy, new).get_weights()
    trained(under_policy(policy, new), 2).save(tmp_path / "half.keras")
    rest = keras.models.load_model(tmp_path / "half.keras")
    optimizer = getattr(rest.optimizer, "inner_optimizer", rest.optimizer)
    assert isinstance(optimizer, kd.Muon) and (optimizer is rest.optimizer) == (
        policy != "mixed_float16"
    )
    for one, other in zip(trained(rest, 2).get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, whole.get_weights(), strict=True))
