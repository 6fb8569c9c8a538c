"""The guidance doctor in `model.fit`, and the small classifier that judges and is judged by."""

import keras
import numpy as np
import pytest
from conftest import make_small, make_unet

import keras_diffusion as kd
from keras_diffusion.evaluation import classifier


def model_of(network, **arguments):
    model = kd.DiffusionModel(network, kd.linear_schedule(50), ema_decay=None, **arguments)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True)
    return model


def told(model, images, labels, *, epochs=1, **options):
    lines = []
    doctor = kd.GuidanceDoctor(
        images[:6], labels[:6], num_steps=2, after=0, say=lines.append, **options
    )
    model.fit(images, labels, epochs=epochs, batch_size=12, verbose=0, callbacks=[doctor])
    return lines, doctor


def test_a_healthy_network_is_left_in_peace(images):
    network = make_unet(num_classes=3)
    for name in ("c1_linear2", "c2_linear2"):  # an untrained network hardly listens
        kernel = network.get_layer(name).kernel
        kernel.assign(50 * kernel)
    lines, doctor = told(model_of(network), *images, guidance_scale=1.0)
    assert doctor.found.gap > 0.01 and doctor.found.variety > 0
    assert not any("dead" in line for line in lines)


def test_a_network_whose_class_leads_nowhere_is_called_dead(images):
    network = make_unet(num_classes=3)
    for layer in network.layers:  # the class's factor is the same for all
        if layer.name in ("c1_linear1", "c2_linear1"):
            layer.kernel.assign(np.zeros(layer.kernel.shape))
            layer.trainable = False
    lines, doctor = told(model_of(network), *images)
    assert doctor.found.gap < 1e-6
    assert any(line.startswith("epoch 1: conditioning is dead") for line in lines)


def test_an_activation_behind_the_last_convolution_is_found(images):
    network = make_small()
    cut = keras.Model(network.input, keras.layers.Activation("gelu")(network.output) * 0.0 + 0.1)
    lines, doctor = told(model_of(cut), *images, epochs=2)
    doctor.losses = [0.40, 0.40]
    doctor.say, more = (lambda line: more.append(line)), []
    doctor.on_epoch_end(2, {"loss": 0.40})
    assert any("activation behind the last convolution" in line for line in more)


@pytest.mark.parametrize("weighed", [{"min_snr": 5.0}, {"data_std": 0.3}], ids=str)
def test_the_plateau_is_of_losses_that_arent_weighed(images, weighed):
    """0.4 is the plateau's height where all times count alike; a weighed loss has another scale."""
    network = make_small()
    cut = keras.Model(network.input, keras.layers.Activation("gelu")(network.output) * 0.0 + 0.1)
    _, doctor = told(model_of(cut), *images)
    said = {}
    for name, options in (("plain", {}), ("weighed", weighed)):
        doctor.set_model(model_of(cut, **options))
        doctor.losses, said[name] = [0.40, 0.40], []
        doctor.say = said[name].append
        doctor.on_epoch_end(2, {"loss": 0.40})
    assert any("last convolution" in line for line in said["plain"])
    assert not any("last convolution" in line for line in said["weighed"])


def test_the_doctor_changes_no_draw_of_training(images):
    weights = []
    for watched in (False, True):
        model = model_of(make_small())
        doctor = kd.GuidanceDoctor(images[0][:6], images[1][:6], num_steps=1, say=lambda _: None)
        model.fit(*images, batch_size=12, verbose=0, shuffle=False, callbacks=[doctor] * watched)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_accuracy_is_what_the_judge_reads(images):
    def judge(drawn):
        return np.eye(3)[np.zeros(len(drawn), int)], None  # reads every image as a 0

    _, doctor = told(model_of(make_small()), *images, judge=judge)
    assert doctor.found.accuracy == pytest.approx(np.mean(images[1][:6] == 0))


def test_it_looks_as_often_as_asked(images):
    model = model_of(make_small())
    _, doctor = told(model, *images, epochs=1, every=2)
    assert doctor.found is None


def test_the_classifier_learns(images):
    x, labels = np.tile(images[0], (20, 1, 1, 1)), np.tile(images[1], 20)
    model = classifier.train(x, labels, num_classes=3, epochs=6, width=8)
    assert classifier.hits(model, *images).mean() > 0.9
    assert model.output["features"].shape == (None, 32)


def test_the_classifier_mirrors_only_if_told(images):
    flips = [
        any(layer.name == "flip" for layer in classifier.build((8, 8, 1), 3, flip=flip).layers)
        for flip in (False, True)
    ]
    assert flips == [False, True]
