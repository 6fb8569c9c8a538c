"""The generator: published vectors, a second implementation in Python's integers, and statistics."""

import math

import numpy as np
import pytest
from conftest import one_line

from keras_diffusion import noise

SHAPE = (28, 28, 1)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # Random123's known answers for threefry2x32, 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key, counter, expected):
    key, counter = (tuple(np.uint32(word) for word in pair) for pair in (key, counter))
    assert tuple(int(word) for word in noise.threefry(key, counter)) == expected


def plain_threefry(key, counter):
    """Threefry-2x32-20 as its paper describes it, on Python's integers."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for i in range(20):
        shift = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        a = (a + b) % 2**32
        b = ((b << shift | b >> (32 - shift)) % 2**32) ^ a
        if i % 4 == 3:
            s = i // 4 + 1
            a, b = (a + keys[s % 3]) % 2**32, (b + keys[(s + 1) % 3] + s) % 2**32
    return a, b


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 5 * 2**32 + 3, 2**63 - 1])
def test_normal_is_box_muller_of_threefry(seed):
    """Every number by the written rule, so that another language can follow it."""
    label, index, draw = 7, 2, 12
    numbers = noise.normal(noise.image_keys(seed, [label], [index]), draw=draw, shape=(3, 3, 1))
    key = plain_threefry((seed % 2**32, seed >> 32), (label, index))
    for i, number in enumerate(numbers.ravel()):
        a, b = plain_threefry(key, (draw, i // 2))
        radius = math.sqrt(-2 * math.log((a + 0.5) / 2**32))
        angle = 2 * math.pi * b / 2**32
        assert math.isclose(
            number, radius * (math.sin if i % 2 else math.cos)(angle), rel_tol=1e-6, abs_tol=1e-7
        )


def test_radius_ends_where_it_should(monkeypatch):
    """The half added to a word keeps log from 0, and centres its cell: words 0 and 2^32 - 1."""
    for word, u in [(0, 0.5 / 2**32), (2**32 - 1, 1 - 0.5 / 2**32)]:
        words = (np.full((1, 1), word, np.uint32), np.zeros((1, 1), np.uint32))
        monkeypatch.setattr(noise, "threefry", lambda key, counter, words=words: words)
        numbers = noise.normal(words, draw=0, shape=(2,))
        np.testing.assert_allclose(numbers, [[math.sqrt(-2 * math.log(u)), 0]], rtol=1e-6)


def test_golden_values():
    """Pinned: with other numbers every seed that anybody noted down would mean other images."""
    numbers = noise.normal(noise.image_keys(0, [0, 3], [0, 1]), draw=0, shape=(2, 2, 1))
    golden = [
        [0.09489893, 0.22807856, -1.51799738, 0.06996343],
        [0.44830424, -1.50480139, 0.34638479, -0.27534249],
    ]
    np.testing.assert_allclose(numbers.reshape(2, 4), golden, rtol=1e-6)
    late = noise.normal(noise.image_keys(2**40 + 1, [9], [99]), draw=300, shape=SHAPE)
    np.testing.assert_allclose(late[0, 27, 26:, 0], [-1.10601544, -0.59198499], rtol=1e-6)
    assert numbers.dtype == late.dtype == np.float32


def test_image_k_does_not_depend_on_how_many():
    few, many = (noise.image_keys(5, np.full(n, 3), np.arange(n)) for n in (10, 100))
    for draw in (0, 7):
        np.testing.assert_array_equal(
            noise.normal(few, draw=draw, shape=SHAPE),
            noise.normal(many, draw=draw, shape=SHAPE)[:10],
        )


def test_everything_in_the_key_matters():
    def numbers(seed=1, label=2, index=3, draw=4):
        return noise.normal(noise.image_keys(seed, [label], [index]), draw=draw, shape=SHAPE)

    base = numbers()
    others = [
        numbers(seed=2),
        numbers(seed=1 + 2**32),
        numbers(seed=1 + 2**62),
        numbers(label=3),
        numbers(index=4),
        numbers(label=3, index=2),
        numbers(draw=5),
    ]
    for other in others:
        assert np.mean(base == other) < 0.01
        assert abs(np.mean(base * other)) < 5 / math.sqrt(base.size)
    np.testing.assert_array_equal(numbers(), base)


def correlation(a, b):
    """Of two arrays, in standard errors."""
    return np.mean(a * b) * math.sqrt(a.size)


def test_moments():
    count = 1000
    x = noise.normal(
        noise.image_keys(11, np.arange(count) % 10, np.arange(count) // 10), draw=0, shape=SHAPE
    )
    x = x.astype(np.float64)
    n = x.size
    # Within four standard errors; those of the moments 1 to 4 of a normal distribution.
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs((x**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    below = [np.mean(x < q) for q in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    expected = [0.5 * math.erfc(-q / math.sqrt(2)) for q in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    np.testing.assert_allclose(below, expected, atol=4 * 0.5 / math.sqrt(n))
    assert np.abs(x).max() < math.sqrt(2 * 33 * math.log(2))  # the radius ends at 2^-33


def test_neighbours_are_independent():
    keys = noise.image_keys(12, np.repeat(np.arange(10), 30), np.tile(np.arange(30), 10))
    x, y = (
        noise.normal(keys, draw=draw, shape=SHAPE)[..., 0].astype(np.float64) for draw in (0, 1)
    )
    pairs = {
        "next pixel of a pair": (x[:, :, ::2], x[:, :, 1::2]),
        "next pair": (x[:, :, 1:-1:2], x[:, :, 2::2]),
        "next row": (x[:, :-1], x[:, 1:]),
        "next image of a label": (x[:-1], x[1:]),
        "next label": (x[:-30], x[30:]),
        "next draw": (x, y),
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 4, name
        assert abs(correlation(a**2 - 1, b**2 - 1) / 2) < 4, name  # their sizes too


def test_an_odd_number_of_pixels():
    keys = noise.image_keys(0, [0], [0])
    odd, even = (noise.normal(keys, draw=0, shape=(n,)) for n in (5, 6))
    np.testing.assert_array_equal(odd[0], even[0, :5])


def test_occurrence():
    np.testing.assert_array_equal(noise.occurrence([3, 1, 3, 3, 1]), [0, 0, 1, 2, 1])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="seed: expected an integer in .* got") as error:
        noise.image_keys(seed, [0], [0])
    one_line(error)
