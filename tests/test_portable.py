"""The sampler in operators alone, run in NumPy, against the sampling loop."""

import numpy as np
import pytest

from keras_diffusion import noise, sampling, schedules
from keras_diffusion.sampling import guidance, portable, request

SHAPE = (4, 4, 1)
OPS = portable.Ops(
    maths=noise.NUMPY,
    count=len,
    any_other=lambda x, value: int((x != value).any()),
    part=lambda x, begin, end: x[begin:end],
    concat=lambda a, b: np.concatenate([a, b]),
    fill=lambda value, count: np.full(count, value, np.float32),
    column=lambda x: x[:, None],
    per_image=lambda x: x[:, None, None, None],
    images=lambda a, b, shape: (
        np.stack([a, b], -1)
        .reshape(len(a), -1)[:, : np.prod(shape)]
        .astype(np.float32)
        .reshape(-1, *shape)
    ),
    clip=lambda x: np.clip(x, 0, 1),
)


class Network:
    """Depends on everything that it is given, and remembers how many images it saw."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, label):
        self.calls.append(len(x))
        assert len(x) == len(t) == len(label)
        shift = (0.1 * label - 0.2 * t)[:, None, None, None]
        return (0.6 * x + shift * np.roll(x, 1, axis=2)).astype(np.float32)


def draw(network, rows, labels, scale, *, seed):
    label = np.asarray(labels, np.int32)
    index = noise.occurrence(label)
    keys = portable.image_keys(np.int64(seed), label.astype(np.int64), index)
    x = portable.normal(keys, draw=0, shape=SHAPE, ops=OPS)
    x0 = np.zeros_like(x)
    for i, row in enumerate(rows):
        fresh = portable.normal(keys, draw=i + 1, shape=SHAPE, ops=OPS)
        x, x0 = portable.step(network, x, x0, label, scale, row, fresh, null_label=3, ops=OPS)
    return np.clip(x, 0, 1)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1])
def test_words_of_64_bits_make_the_same_noise(seed):
    labels, indices = np.array([0, 3, 7]), np.array([0, 1, 2**32 - 1])
    asked = noise.image_keys(seed, labels, indices)
    keys = portable.image_keys(np.int64(seed), labels, indices)
    assert all((a == b).all() for a, b in zip(asked, keys, strict=True))
    for shape in ((4, 4, 1), (3, 3, 1)):
        expected = noise.normal(asked, draw=5, shape=shape)
        assert (portable.normal(keys, draw=5, shape=shape, ops=OPS) == expected).all()


@pytest.mark.parametrize(
    ("sampler", "interval", "scale"),
    [
        ("ddpm", None, [5.0, 5.0, 5.0, 5.0]),
        ("ddim", (0.2, 0.7), [3.0, 1.0, 0.0, 2.0]),
        ("dpmpp_2m", None, [1.0, 1.0, 1.0, 1.0]),
        ("heun", (0.0, 0.5), [2.0, 2.0, 2.0, 2.0]),
    ],
)
def test_it_is_the_loop(sampler, interval, scale):
    plan = sampling.plan(schedules.linear_schedule(50), "eps", sampler=sampler, num_steps=6)
    labels, scale = [0, 2, 2, 1], np.array(scale, np.float32)
    expected = sampling.sample(
        Network(),
        plan,
        labels,
        image_shape=SHAPE,
        num_classes=3,
        guidance_scale=scale,
        guidance_interval=interval,
        seed=9,
    )
    rows = portable.table(plan, guidance.weights(plan, interval))
    network = Network()
    assert np.abs(draw(network, rows, labels, scale, seed=9) - expected).max() < 1e-6
    guided = guidance.weights(plan, interval) * (scale != 1).any()
    assert network.calls == [8 if acts else 4 for acts in guided]


def test_table():
    plan = sampling.plan(schedules.linear_schedule(50), "eps", num_steps=4)
    rows = portable.table(plan, np.array([1, 0, 1, 0]))
    assert rows.shape == (4, len(portable.COLUMNS)) and rows.dtype == np.float32
    columns = dict(zip(portable.COLUMNS, rows.T, strict=True))
    assert np.allclose(columns["t"], plan.t / 50) and columns["weight"].tolist() == [1, 0, 1, 0]
    for name in "pqabdce":
        assert np.allclose(columns[name], getattr(plan, name)), name


@pytest.mark.parametrize(("count", "n"), [(10, 3), (2, 5), (256, 256), (1, 1)])
def test_shards_are_the_whole(count, n):
    parts = [request.shard(count, k, n) for k in range(1, n + 1)]
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
