"""PIL reads back what we write without it."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_diffusion import imagefiles
from keras_diffusion.errors import UserError

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def smooth(*shape):
    return np.broadcast_to(np.linspace(0, 255, shape[-2])[:, None], shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 1), (7, 5, 3), (64, 300, 1)])
def test_png(shape):
    picture = random(*shape)
    with Image.open(io.BytesIO(imagefiles.png(picture))) as image:
        image.load()
        assert image.mode == {1: "L", 3: "RGB"}[shape[2]]
        assert (np.asarray(image).reshape(shape) == picture).all()


# 300 x 200 random pixels fill the table of codes many times over; a smooth picture has long codes.
@pytest.mark.parametrize("make", [random, smooth])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 1), (2, 300, 200, 1), (4, 64, 64, 1)])
def test_gif(shape, make):
    pictures = make(*shape)
    pictures[0] = 255 - pictures[0]  # PIL joins frames that are equal
    with Image.open(io.BytesIO(imagefiles.gif(pictures, milliseconds=50, hold=900))) as image:
        assert image.n_frames == shape[0] and image.info["loop"] == 0
        for k in range(shape[0]):
            image.seek(k)
            assert (np.asarray(image.convert("L")) == pictures[k, ..., 0]).all()
            assert image.info["duration"] == (900 if k == shape[0] - 1 else 50)


def test_gif_in_colour():
    pictures = random(2, 20, 30, 3)
    with Image.open(io.BytesIO(imagefiles.gif(pictures))) as image:
        for k in range(2):
            image.seek(k)
            difference = np.asarray(image.convert("RGB")).astype(int) - pictures[k]
            assert np.abs(difference).max() <= 26  # half a step of six levels


def test_a_smooth_gif_is_small():
    assert len(imagefiles.gif(smooth(1, 300, 200, 1))) < 60_000 / 4  # a byte a pixel without codes


def test_tile_puts_images_where_they_belong():
    rows = RNG.random((2, 3, 4, 5, 1))
    picture = imagefiles.tile(rows, zoom=2, gap=1)
    assert picture.shape == (2 * (4 * 2 + 1) + 1, 3 * (5 * 2 + 1) + 1, 1)
    for r in range(2):
        for c in range(3):
            part = picture[r * 9 + 1 : r * 9 + 9, c * 11 + 1 : c * 11 + 11]
            expected = np.round(rows[r, c] * 255).astype(np.uint8)
            assert (part[::2, ::2] == expected).all() and (part[1::2, 1::2] == expected).all()
    assert (picture[0] == 96).all() and (picture[:, -1] == 96).all()


def test_tile_clips():
    assert imagefiles.tile(np.array([[[[[-0.5]], [[2.0]]]]]), zoom=1, gap=0).ravel().tolist() == [
        0,
        255,
    ]


def test_grid():
    images = np.arange(6.0).reshape(6, 1, 1, 1)
    rows, names = imagefiles.grid(images, np.array([2, 2, 0, 0, 1, 1]), ["a", "b", "c"])
    assert rows[..., 0, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]] and names == ["c", "a", "b"]
    rows, names = imagefiles.grid(np.ones((12, 1, 1, 1)), np.zeros(12, int), [])
    assert rows.shape[:2] == (2, 10) and names is None and rows.sum() == 12


@pytest.mark.parametrize(
    ("suffix", "count", "shape", "expected"),
    [
        (".png", 4, (8, 8, 2), "expected .npy for images of 2 channels"),
        (".gif", 4, (8, 8, 4), "expected .npy for images of 4 channels"),
        (".gif", 40_000, (8, 8, 1), "at most 65535 pixels a side"),
    ],
)
def test_what_makes_no_picture(suffix, count, shape, expected):
    with pytest.raises(UserError, match=expected):
        imagefiles.check(suffix, count, shape, columns=10)


def test_what_just_makes_one():
    imagefiles.check(".gif", 3640 * 10, (8, 8, 1), columns=10)  # 3640 rows of 18 pixels, and 2
    imagefiles.check(".png", 10**6, (8, 8, 3), columns=10)
