"""The order of the training images is mathematics: permutations, one an epoch, of seed and step."""

import itertools
import os

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from keras_diffusion import pipeline  # noqa: E402


def numbered(count):
    """Images that carry their own index, in their first two pixels, and labels that do too."""
    index = np.arange(count)
    images = np.zeros((count, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = index % 256, index // 256
    return images, index


def take(count, steps, *, batch_size, seed=0, start_step=0):
    """Index arrays of the first batches, read from the pixels and compared with the labels."""
    batches = pipeline.training_batches(
        *numbered(count), batch_size=batch_size, seed=seed, start_step=start_step
    )
    orders = []
    for images, labels in itertools.islice(batches.as_numpy_iterator(), steps):
        pixels = np.rint(images * 255).astype(int)
        np.testing.assert_array_equal(pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 1, 0], labels)
        orders.append(labels)
    return orders


def order(count, epoch, *, seed=0):
    """The order of a whole epoch, as one batch."""
    return take(count, 1, batch_size=count, seed=seed, start_step=epoch)[0]


@pytest.mark.parametrize(
    "count, batch_size", [(10, 3), (12, 4), (5, 8), (1, 1), (300, 64), (7, 1), (16, 16)]
)
def test_each_epoch_has_every_image_once_and_a_short_last_batch(count, batch_size):
    steps = pipeline.steps_per_epoch(count, batch_size)
    batches = take(count, 3 * steps, batch_size=batch_size)
    for epoch in range(3):
        mine = batches[epoch * steps : (epoch + 1) * steps]
        full, last = divmod(count, batch_size)
        assert [len(b) for b in mine] == [batch_size] * full + [last] * (last > 0)
        np.testing.assert_array_equal(np.sort(np.concatenate(mine)), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    seeds, epochs = (0, 1, 256, 2**32, 2**63 - 1), (0, 1, 256)
    orders = {tuple(order(100, epoch, seed=seed)) for seed in seeds for epoch in epochs}
    assert len(orders) == len(seeds) * len(epochs)
    np.testing.assert_array_equal(order(100, 2, seed=7), order(100, 2, seed=7))


@pytest.mark.parametrize("count", [60_000, 4_500])
def test_orders_look_like_chance(count):
    """With tf.random.experimental.index_shuffle two epochs of 60,000 have a correlation of 0.9."""
    orders = [np.arange(count)] + [order(count, epoch) for epoch in range(4)]
    chance = 1 / np.sqrt(count)  # the standard deviation of a correlation
    for a, b in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 * chance
        assert (a == b).sum() < 10  # 1 is expected
    for a in orders[1:]:
        assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 * chance
        assert (np.diff(a) == 1).sum() < 10


@pytest.mark.parametrize("start_step", [0, 1, 3, 4, 5, 11, 1_000_003])
def test_going_on_from_a_step_is_the_undisturbed_stream(start_step):
    through = take(10, 12, batch_size=3, seed=5, start_step=start_step - start_step % 4)
    going_on = take(10, 8, batch_size=3, seed=5, start_step=start_step)
    for a, b in zip(going_on, through[start_step % 4 :], strict=False):
        np.testing.assert_array_equal(a, b)


def test_values_are_exactly_the_pixels_over_255():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for batches in (
        pipeline.training_batches(images, np.array([3], np.uint8), batch_size=1, seed=0),
        pipeline.evaluation_batches(images, np.array([3], np.uint8), batch_size=1),
    ):
        x, y = next(batches.as_numpy_iterator())
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(x, images.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(y, [3])


def test_static_shape_has_the_image_so_that_a_model_can_be_built():
    x, y = pipeline.training_batches(*numbered(10), batch_size=3, seed=0).element_spec
    assert (x.shape.as_list(), y.shape.as_list()) == ([None, 4, 4, 1], [None])


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_memory_holds_bytes_not_floats():
    images = np.ones((1024, 256, 256, 1), np.uint8)  # 64 MiB; as floats, 256
    labels = np.zeros(1024, np.int32)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    next(iter(pipeline.training_batches(images[:8], labels[:8], batch_size=1, seed=0)))
    before = resident()
    iterator = iter(pipeline.training_batches(images, labels, batch_size=1, seed=0))
    next(iterator)
    assert resident() - before < 2.5 * images.nbytes


def test_evaluation_is_everything_once_in_order():
    images, labels = numbered(10)
    batches = list(pipeline.evaluation_batches(images, labels, batch_size=4).as_numpy_iterator())
    assert [len(y) for _, y in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]) * 255, images)


def test_steps_per_epoch_counts_the_short_batch():
    cases = [(10, 3), (9, 3), (1, 5), (60_000, 128)]
    assert [pipeline.steps_per_epoch(*case) for case in cases] == [4, 3, 1, 469]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 0}, "batch_size at least 1, got 10 and 0"),
        ({"seed": -1}, "seed < 2**63, got -1"),
        ({"seed": 2**63}, "got 9223372036854775808"),
        ({"start_step": -1}, "start_step of at least 0, got -1"),
        ({"images": numbered(10)[0] / 255}, "uint8 [N, H, W, C], N at least 1, got float64"),
        ({"images": numbered(10)[0][..., 0]}, "got uint8 [10, 4, 4]"),
        ({"images": numbered(10)[0][:0]}, "got uint8 [0, 4, 4, 1]"),
        ({"labels": np.arange(9)}, "labels integer [10], got int64 [9]"),
        ({"labels": np.arange(10.0)}, "labels integer [10], got float64 [10]"),
    ],
)
def test_wrong_arguments_say_what_was_expected_and_what_came(change, words):
    images, labels = numbered(10)
    arguments = {"images": images, "labels": labels, "batch_size": 2, "seed": 0, **change}
    with pytest.raises(ValueError) as error:
        pipeline.training_batches(arguments.pop("images"), arguments.pop("labels"), **arguments)
    assert words in str(error.value) and "\n" not in str(error.value)
