"""What the tests share. Nothing here imports TensorFlow before a test asks for it: some tests run with NumPy alone."""

import os
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a CPU: where each had as many threads of linear algebra as there are CPUs, they'd wait for each other, spinning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

# Files that take minutes, and so come first: of two processes that run tests, none is left with one of them at the end.
LONG = ("workers", "matching", "faults", "replicas", "restore", "fit", "training", "exporting")
IMAGE_SHAPE = (8, 8, 1)  # the smallest that the UNet still halves twice to more than one pixel
NUM_CLASSES = 3


def pytest_collection_modifyitems(items):
    """Puts `LONG` first; it takes `--no-loadscope-reorder`."""
    names = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: names.index(n) if (n := item.path.stem) in names else len(names))


@pytest.fixture(scope="session")
def repo():
    """The folder that has `keras_diffusion` in it, for tests that start another Python."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def python():
    """Starts programs that need TensorFlow: `forks.Forks`."""
    import forks

    with forks.Forks(*forks.TENSORFLOW) as started:
        yield started


@pytest.fixture(scope="session")
def images():
    """24 images [24, 8, 8, 1] in [0, 1], a bright square on black, with labels: its column."""
    rng = np.random.default_rng(0)
    x0 = np.zeros((24, *IMAGE_SHAPE), np.float32)
    labels = np.arange(24) % NUM_CLASSES
    for image, label in zip(x0, labels, strict=True):
        row = rng.integers(0, 5)
        image[row : row + 3, 2 * label : 2 * label + 3] = rng.uniform(0.5, 1)
    return x0, labels.astype(np.int32)


@pytest.fixture(scope="session")
def class_network():
    """A small UNet with classes and nothing left at its initial value; tests don't change its weights."""
    return make_unet(num_classes=NUM_CLASSES)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, repo, python):
    """A folder that has a finished run of part 2.5 in `run`, of a small untrained network, on 200 digits; and a function that runs a program of the repository there."""
    import keras_diffusion as kd
    from keras_diffusion import runs, settings

    folder = tmp_path_factory.mktemp("programs")
    network = make_small(image_shape=(28, 28, 1), num_classes=10)
    model = kd.DiffusionModel(network, kd.cosine_schedule(300), prediction="v")
    run = runs.Run(folder / "run")
    run.create()
    model.save(run.model)
    asked = settings.resolve({"part": "2.5", "width": 4, "data": "mnist-5k", "limit": 200})
    told = {"schedule": model.schedule.to_config(), "prediction": "v", "figures": [], "data": {}}
    run.write({"status": "finished", "settings": settings.to_json(asked), **told})

    def call(program, *words, status=0):
        done = python.run(repo / program, *words, cwd=folder)
        assert done.returncode == status, done.stderr
        return done

    return call, folder


def make_unet(*, seed=0, **arguments):
    """A UNet of width 8 on small images, weights drawn from `seed`, BatchNorm's statistics and biases not trivial."""
    from keras_diffusion import nn

    network = nn.unet(**{"width": 8, "image_shape": IMAGE_SHAPE, **arguments})
    return roughen(network, seed=seed)


def make_small(*, image_shape=IMAGE_SHAPE, num_classes=NUM_CLASSES, between=0, seed=0):
    """A UNet's first and last convolution, told time and class, and as many between as asked, rough: where any network will do, it is made, traced and exported far sooner."""
    import keras

    from keras_diffusion.nn import blocks

    width = 8
    inputs = {
        "x": keras.Input(image_shape, name="x"),
        "t": keras.Input((), name="t"),
        "label": keras.Input((), name="label", dtype="int32"),
    }
    told = [keras.layers.Reshape((1,))(inputs["t"]), blocks.OneHot(num_classes)(inputs["label"])]
    told = keras.layers.Dense(width, name="told")(keras.layers.Concatenate()(told))
    told = keras.layers.Reshape((1, 1, width))(told)
    h = blocks.conv(inputs["x"], width, name="enter", between=lambda h: h + told)
    for k in range(between):
        h = blocks.conv(h, width, name=f"between{k}")
    h = blocks.last_conv(h, image_shape[-1])
    return roughen(keras.Model(inputs, h, name="small"), seed=seed)


def under_policy(policy, make):
    """What `make` makes under a dtype policy of Keras."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make()
    finally:
        keras.config.set_dtype_policy(before)


def roughen(network, *, seed=0):
    """Gives every vector of a network (biases, gamma, beta, moving statistics) values that a mistake would show in."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        for variable in layer.weights:
            shape = variable.shape
            if len(shape) > 1:
                bound = 1.5 / np.sqrt(np.prod(shape[:-1]))
                variable.assign(rng.uniform(-bound, bound, shape))
            elif variable.name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.5, 1.5, shape))
            else:
                variable.assign(rng.normal(0, 0.3, shape))
    return network


def one_line(error):
    """The message of a `pytest.raises`, which must be a single line."""
    message = str(error.value)
    assert "\n" not in message, message
    return message
