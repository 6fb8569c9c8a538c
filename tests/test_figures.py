"""What the pictures show: pixels at their places, curves with numbers, boxes that do not meet."""

import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from keras_diffusion.figures import (
    Stage,
    animation,
    architecture,
    image_grid,
    loss_curve,
    style,
    unet_diagram,
)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def tiles_of(page, images):
    """(top, left, scale) of each image, found by its levels, which no other image may have."""
    found = {}
    for row, column in np.ndindex(images.shape[:2]):
        levels = np.rint(images[row, column] * 255).astype(np.uint8)
        if levels.shape[-1] == 1:
            inside = np.isin(page, levels)
        else:
            colours = np.unique(levels.reshape(-1, 3), axis=0)
            inside = (page[:, :, None] == colours).all(-1).any(-1)
        ys, xs = np.nonzero(inside)
        scale, rest = divmod(np.ptp(ys) + 1, levels.shape[0])
        assert rest == 0
        top, left = ys.min(), xs.min()
        tile = page[top : ys.max() + 1, left : xs.max() + 1]
        expected = levels.repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_array_equal(tile, expected if tile.ndim == 3 else expected[..., 0])
        found[row, column] = int(top), int(left), int(scale)
    return found


def coloured(rows, columns, height=28, width=28):
    """Images of colours, which the grey letters of labels never have."""
    images = np.zeros((rows, columns, height, width, 3), np.float32)
    for row, column in np.ndindex(rows, columns):
        images[row, column] = (200 / 255, row / 255, column / 255)
    return images


def ink(page):
    """Rows and columns of the page that hold something grey."""
    grey = (page.max(-1) == page.min(-1)) & (page[..., 0] < 200)
    return np.nonzero(grey.any(axis=1))[0], np.nonzero(grey.any(axis=0))[0]


# ---- grids ---------------------------------------------------------------------------------------


def test_every_pixel_is_a_square_of_its_exact_level_in_its_place(tmp_path):
    levels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5, 1)  # not square: H, W can't be swapped
    image_grid(tmp_path / "grid.png", levels / 255)
    page = read(tmp_path / "grid.png")
    places = tiles_of(page, levels / 255)
    scale = places[0, 0][2]
    assert scale >= 2 and {place[2] for place in places.values()} == {scale}
    tops = [[places[r, c][0] for c in range(3)] for r in range(2)]
    lefts = [[places[r, c][1] for c in range(3)] for r in range(2)]
    assert np.ptp(tops, axis=1).max() == 0 and np.ptp(lefts, axis=0).max() == 0
    assert tops[1][0] - tops[0][0] - 4 * scale == 4  # thin gaps of the same width both ways
    assert np.diff(lefts[0]).tolist() == [5 * scale + 4] * 2
    assert (page[:, lefts[0][1] - 4 : lefts[0][1]] == 255).all()


def test_values_outside_the_range_are_clipped(tmp_path):
    values = np.array([-1, 2, np.nan, np.inf, -np.inf, 0.5], np.float32)
    image_grid(tmp_path / "grid.png", values.reshape(1, 1, 1, 6, 1))
    page = read(tmp_path / "grid.png")
    middle = page[page.shape[0] // 2]
    top = np.nonzero(middle != 255)[0].min()  # the first pixel is black, on white paper
    scale = (np.nonzero(middle == 128)[0].max() + 1 - top) // 6
    assert middle[top : top + 6 * scale : scale].tolist() == [0, 255, 0, 255, 0, 128]


def test_labels_stand_by_their_row_and_column(tmp_path):
    images = coloured(3, 2)
    labels = {"row_labels": ["", "", "low"], "column_labels": ["", "B"]}
    image_grid(tmp_path / "grid.png", images, **labels)
    page = read(tmp_path / "grid.png")
    places = tiles_of(page, images)
    (top, left, scale), first = places[2, 1], places[0, 0]
    beside, above = page.copy(), page.copy()
    beside[:, first[1] :] = above[first[0] :] = 255
    ys, xs = ink(beside)
    assert top < ys.min() and ys.max() < top + 28 * scale and xs.size
    ys, xs = ink(above)
    assert left < xs.min() and xs.max() < left + 28 * scale and ys.size


def test_an_empty_label_continues_a_group(tmp_path):
    images = coloured(4, 1)
    image_grid(tmp_path / "grid.png", images, row_labels=["0", "", "5", ""])
    page = read(tmp_path / "grid.png")
    places = tiles_of(page, images)
    tops, size = [places[k, 0][0] for k in range(4)], 28 * places[0, 0][2]
    gaps = np.diff(tops) - size
    assert gaps[0] == gaps[2] and gaps[1] >= 3 * gaps[0]
    ys, _ = ink(page)
    upper = ys[ys < tops[2]]
    assert abs((upper.min() + upper.max()) / 2 - (tops[0] + tops[1] + size) / 2) < 3


@pytest.mark.parametrize("columns", [1, 3, 16])
def test_nothing_is_cut_and_labels_do_not_touch(tmp_path, columns):
    labels = [f"a label of some length {k}" for k in range(columns)]
    images = coloured(2, columns)
    image_grid(
        tmp_path / "grid.png",
        images,
        column_labels=labels,
        title="A title that is much longer than the picture is wide, if there is one column only",
    )
    page = read(tmp_path / "grid.png")
    places = tiles_of(page, images)
    assert all((edge == 255).all() for edge in (page[:8], page[-4:], page[:, :4], page[:, -4:]))
    above = page[places[0, 0][0] - 40 : places[0, 0][0]]
    _, xs = ink(above)
    assert np.count_nonzero(np.diff(xs) > 12) >= columns - 1  # wider than between words


def test_many_images_keep_a_readable_size(tmp_path):
    image_grid(tmp_path / "wide.png", np.zeros((1, 60, 28, 28, 1)))
    page = read(tmp_path / "wide.png")
    assert (page.min(axis=1) == 0).sum() == 56  # 28 CSS pixels on a screen of double density


@pytest.mark.parametrize("images, labels, message", [
    (np.zeros((2, 3, 4, 4)), {}, "expected floats [R, C, H, W, 1 or 3]"),
    (np.zeros((1, 2, 4, 4, 2)), {}, "received float64 [1, 2, 4, 4, 2]"),
    (np.zeros((1, 2, 4, 4, 1), np.uint8), {}, "received uint8"),
    (np.zeros((0, 2, 4, 4, 1)), {}, "received float64 [0, 2, 4, 4, 1]"),
    (np.zeros((2, 3, 4, 4, 1)), {"row_labels": ["a"]}, "row_labels: expected 2 labels"),
    (np.zeros((2, 3, 4, 4, 1)), {"column_labels": "ab"}, "column_labels: expected 3 labels"),
])  # fmt: skip
def test_grid_refuses(tmp_path, images, labels, message):
    with pytest.raises(ValueError) as error:
        image_grid(tmp_path / "grid.png", images, **labels)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# ---- animations ----------------------------------------------------------------------------------


def test_gif_shows_each_frame_for_its_time_and_loops(tmp_path):
    frames = np.zeros((5, 1, 2, 28, 28, 1), np.float32)
    for k in range(5):
        frames[k, 0, 1, 3, 2 * k] = 1  # a white pixel that moves right
    animation(tmp_path / "a.gif", frames, duration=0.05, hold_last=1.5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        pages, times = [], []
        for k in range(5):
            gif.seek(k)
            times.append(gif.info["duration"])
            pages.append(np.asarray(gif.convert("L")))
    assert times == [50] * 4 + [1500]
    top = left = 8
    scale = 4  # 112 CSS pixels at the most
    second = left + 28 * scale + 2
    for k, page in enumerate(pages):
        assert page.shape == (28 * scale + 16, 2 * 28 * scale + 2 + 16)
        tile = page[top : top + 28 * scale, second : second + 28 * scale]
        expected = (frames[k, 0, 1, ..., 0] * 255).astype(np.uint8)
        np.testing.assert_array_equal(tile, expected.repeat(scale, 0).repeat(scale, 1))
        assert (page[top : top + 28 * scale, left : left + 28 * scale] == 0).all()


@pytest.mark.parametrize("colours", [1, 3])
def test_gif_levels_are_near_and_equal_frames_keep_their_time(tmp_path, colours):
    ramp = np.linspace(0, 1, 28, dtype=np.float32)[:, None].repeat(28, 1)
    frames = np.broadcast_to(ramp[None, None, None, ..., None], (4, 1, 1, 28, 28, colours)).copy()
    frames[0] = 0
    animation(tmp_path / "a.gif", frames, duration=0.1, hold_last=1)
    with Image.open(tmp_path / "a.gif") as gif:
        total = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            total += gif.info["duration"]
        page = np.asarray(gif.convert("RGB")).astype(int)
    assert total == 1300
    column = page[8 : 8 + 28 * 4 : 4, -20]
    assert np.abs(column - ramp[:, :1] * 255).max() <= 255 / 31 / 2 + 1


def test_gif_of_one_frame(tmp_path):
    animation(tmp_path / "a.gif", np.zeros((1, 1, 1, 2, 2, 1)))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 1


@pytest.mark.parametrize("frames, options, message", [
    (np.zeros((3, 1, 1, 4, 4)), {}, "expected floats [F, R, C, H, W, 1 or 3]"),
    (np.zeros((3, 1, 1, 4, 4, 1)), {"duration": 0.01}, "duration: expected 0.02 to 600 seconds"),
    (np.zeros((3, 1, 1, 4, 4, 1)), {"hold_last": float("nan")}, "hold_last: expected"),
])  # fmt: skip
def test_animation_refuses(tmp_path, frames, options, message):
    with pytest.raises(ValueError) as error:
        animation(tmp_path / "a.gif", frames, **options)
    assert message in str(error.value) and not list(tmp_path.iterdir())


# ---- curves --------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, and gives the matplotlib figure back."""
    kept = []
    save = style.save_figure
    monkeypatch.setattr(style, "save_figure", lambda path, f: (kept.append(f), save(path, f)))

    def draw(function, *arguments, **options):
        function(tmp_path / "drawn.png", *arguments, **options)
        return kept[-1]

    return draw


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curve_shows_losses_their_running_mean_and_the_end(drawn):
    losses = np.exp(np.random.default_rng(0).normal(size=410))
    losses[20] = 1e30  # must not spoil the means after it
    figure = drawn(loss_curve, np.arange(1, 411), losses, title="t", reference=(0.025, "staff"))
    end = f"at the end: {losses[-100:].mean():.4g} (mean of the last 100)"
    assert legend(figure) == ["each step", "running mean of 11 steps", end, "staff: 0.025"]
    np.testing.assert_array_equal(lines(figure)["each step"].get_ydata(), losses)
    mean = lines(figure)["running mean of 11 steps"].get_ydata()
    naive = [losses[max(0, k - 5) : k + 6].mean() for k in range(410)]
    np.testing.assert_allclose(mean, naive, rtol=1e-12)
    low, high = figure.axes[0].get_ylim()
    assert low < 0.025 < high and figure.axes[0].get_yscale() == "log"


def test_losses_that_are_not_finite_leave_a_gap_and_are_counted(drawn):
    losses = np.linspace(1, 0.1, 200)
    losses[50:60], losses[150] = np.nan, np.inf
    figure = drawn(loss_curve, range(200), losses, title="t")
    drawn_losses, mean = (line.get_ydata() for line in figure.axes[0].get_lines()[:2])
    gaps = ~np.isfinite(losses)
    np.testing.assert_array_equal(np.isnan(drawn_losses), gaps)
    np.testing.assert_array_equal(np.isnan(mean), gaps)
    assert mean[60] == pytest.approx(losses[60:63].mean())  # of what is there, 5 steps around
    assert legend(figure)[0] == "each step (11 not finite, left out)"
    assert legend(figure)[2].startswith(f"at the end: {losses[100:][~gaps[100:]].mean():.4g}")


@pytest.mark.parametrize("losses", [[0.3], [np.nan], [np.nan, 0.2], [0.0, 0.0], [-1.0, 5.0]])
def test_curves_of_a_few_points(drawn, losses):
    figure = drawn(loss_curve, range(len(losses)), losses, title="t", epoch_ends=[0])
    assert figure.axes[0].get_yscale() == "linear"
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) and (ticks == np.rint(ticks)).all()


def test_curve_of_very_many_points(tmp_path):
    losses = np.random.default_rng(0).random(50_000) + 0.01
    loss_curve(tmp_path / "c.png", np.arange(50_000), losses, title="t")
    assert read(tmp_path / "c.png").shape[1] == 1600


@pytest.mark.parametrize("spread, expected", [(10, "log"), (2, "linear")])
def test_logarithmic_where_it_helps(drawn, spread, expected):
    losses = np.geomspace(1, 1 / spread, 50)
    figure = drawn(loss_curve, range(50), losses, title="t")
    assert figure.axes[0].get_yscale() == expected


@pytest.mark.parametrize("epochs, shown", [
    (1, [1]), (5, [1, 2, 3, 4, 5]), (20, [*range(2, 21, 2)]), (23, [5, 10, 15, 20, 23]),
    (137, [20, 40, 60, 80, 100, 120, 137]), (1000, [1000]),
])  # fmt: skip
def test_epochs_are_marked_and_thinned(drawn, epochs, shown):
    ends = 7 * np.arange(1, epochs + 1)
    figure = drawn(loss_curve, [1, ends[-1]], [1.0, 0.5], title="t", epoch_ends=ends)
    marks = [line.get_xdata()[0] for line in figure.axes[0].get_lines()[-len(shown) :]]
    assert marks == [7 * epoch for epoch in shown]
    labels = [text.get_text() for text in figure.axes[0].child_axes[0].get_xticklabels()]
    assert labels == [f"epoch {shown[0]}", *map(str, shown[1:])]


@pytest.mark.parametrize("steps, losses", [([1, 2], [1.0]), ([], []), ([[1]], [[1.0]])])
def test_curve_refuses(tmp_path, steps, losses):
    with pytest.raises(ValueError, match=r"expected \[N\] and \[N\] with N >= 1, received \["):
        loss_curve(tmp_path / "c.png", steps, losses, title="t")


# ---- the U ---------------------------------------------------------------------------------------


def unet(width, *, conditioning=()):
    """The course's network; conditioning: () or ("t",) or ("c", "t")."""
    d, stages = width, []

    def add(name, operation, shape, *inputs):
        stages.append(Stage(name, operation, shape, inputs))
        return name

    add("x", "x", (28, 28, 1))
    add("encoder", "ConvBlock", (28, 28, d), "x")
    add("down1", "DownBlock", (14, 14, d), "encoder")
    add("down2", "DownBlock", (7, 7, 2 * d), "down1")
    add("flatten", "Flatten", (1, 1, 2 * d), "down2")
    at = add("unflatten", "Unflatten", (7, 7, 2 * d), "flatten")
    for kind in conditioning:
        source = add(kind, {"t": "t", "c": "one-hot label"}[kind], (1 if kind == "t" else 10,))
        for k in (1, 2):
            add(f"{kind}{k}", f"FCBlock {kind}{k}", (2 * d // k,), source)
    if conditioning:
        at = add("cond1", "c1*h + t1", (7, 7, 2 * d), at, *(f"{kind}1" for kind in conditioning))
    add("concat1", "concat", (7, 7, 4 * d), at, "down2")
    at = add("up1", "UpBlock", (14, 14, d), "concat1")
    if conditioning:
        at = add("cond2", "c2*h + t2", (14, 14, d), at, *(f"{kind}2" for kind in conditioning))
    add("concat2", "concat", (14, 14, 2 * d), at, "down1")
    add("up2", "UpBlock", (28, 28, d), "concat2")
    add("concat3", "concat", (28, 28, 2 * d), "up2", "encoder")
    add("decoder", "ConvBlock", (28, 28, d), "concat3")
    add("out", "Conv2D 3×3", (28, 28, 1), "decoder")
    return stages


NETS = [
    unet(64),
    unet(128, conditioning=("t",)),
    unet(128, conditioning=("c", "t")),
    [Stage("x", "x", (8, 8, 1))],
    [Stage("x", "x", (8, 8, 1)), Stage("y", "Conv", (8, 8, 1), ("x",)), Stage("v", "v", (3,))],
]


@pytest.mark.parametrize("stages", NETS)
def test_boxes_are_apart_and_hold_their_words(drawn, stages):
    figure = drawn(architecture, stages, title="T", footnote="word " * 80)
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
    assert len(boxes) == len(stages)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    title, footnote, *words = [text for text in axes.texts if text.get_text()]
    page = figure.bbox
    for text in (title, footnote, *words):
        area = text.get_window_extent(renderer)
        assert page.x0 <= area.x0 and area.x1 <= page.x1
        assert page.y0 <= area.y0 and area.y1 <= page.y1
    expected = [w for s in stages for w in (s.operation, "×".join(map(str, s.shape)))]
    assert [text.get_text() for text in words] == expected
    for k, box in enumerate(boxes):
        operation, shape = (t.get_window_extent(renderer) for t in words[2 * k : 2 * k + 2])
        assert box.x0 < operation.x0 and operation.x1 < shape.x0 and shape.x1 < box.x1
        assert box.y0 < min(operation.y0, shape.y0) and max(operation.y1, shape.y1) < box.y1


def test_the_network_is_a_u_with_level_skips():
    stages = unet(64, conditioning=("c", "t"))
    boxes = unet_diagram._place(stages)
    for encoder, decoder in (("encoder", "concat3"), ("down1", "concat2"), ("down2", "concat1")):
        assert boxes[encoder].y == boxes[decoder].y
        assert boxes[encoder].x + boxes[encoder].width < boxes[decoder].x
    down = [boxes[name].y for name in ("x", "encoder", "down1", "down2", "flatten")]
    assert down == sorted(down, reverse=True) and boxes["x"].y == boxes["out"].y
    up = ["flatten", "unflatten", "cond1", "concat1", "up1", "cond2", "concat2", "up2", "concat3"]
    heights = [boxes[name].y for name in up]
    assert heights == sorted(heights) and len(set(heights)) == len(up)
    assert boxes["out"].x < boxes["c1"].x == boxes["t2"].x < boxes["t"].x
    assert (boxes["c1"].y + boxes["t1"].y) / 2 == pytest.approx(boxes["cond1"].y)


def test_every_input_has_an_arrow(drawn):
    stages = unet(64, conditioning=("c", "t"))
    figure = drawn(architecture, stages, title="T")
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == sum(len(stage.inputs) for stage in stages) == 25


@pytest.mark.parametrize("stages, message", [
    ([Stage("a", "a", (2, 2, 1)), Stage("a", "b", (2, 2, 1))], "'a': expected a name of its own"),
    ([Stage("a", "a", (2, 2, 1), ("b",))], "expected inputs from earlier stages, received ['b']"),
    ([Stage("a", "a", (2, 2))], "expected shape (H, W, C) or (C,), received (2, 2)"),
    ([Stage("a", "a", (2,))], "expected at least one of shape (H, W, C), received none"),
    ([], "expected at least one of shape (H, W, C), received none"),
])  # fmt: skip
def test_architecture_refuses(tmp_path, stages, message):
    with pytest.raises(ValueError) as error:
        architecture(tmp_path / "u.png", stages, title="T")
    assert message in str(error.value)


# ---- all of them ---------------------------------------------------------------------------------

WRITERS = {
    "image_grid": lambda path: image_grid(path, np.full((1, 1, 2, 2, 1), 0.5), title="T"),
    "animation": lambda path: animation(path, np.eye(2).reshape(2, 1, 1, 2, 1, 1)),
    "loss_curve": lambda path: loss_curve(path, [1, 2], [3.0, 4.0], title="T"),
    "architecture": lambda path: architecture(path, unet(8), title="T"),
}


def name_of(writer):
    return "picture.gif" if writer == "animation" else "picture.png"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, writer):
    def fail(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(style.FigureCanvasAgg, "print_png", fail)
    (tmp_path / name_of(writer)).write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        WRITERS[writer](tmp_path / name_of(writer))
    assert [path.name for path in tmp_path.iterdir()] == [name_of(writer)]
    assert (tmp_path / name_of(writer)).read_bytes() == b"old"


@pytest.mark.parametrize("writer", WRITERS)
def test_same_input_same_bytes_whatever_the_user_set(tmp_path, writer):
    path = tmp_path / name_of(writer)
    path.write_bytes(b"old")
    WRITERS[writer](path)
    first = path.read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        WRITERS[writer](str(path))
        assert matplotlib.rcParams["font.size"] == 30
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("writer", WRITERS)
def test_another_suffix_is_refused(tmp_path, writer):
    with pytest.raises(
        ValueError, match=r"expected a name ending in \.(png|gif), received 'p.jpg'"
    ):
        WRITERS[writer](tmp_path / "p.jpg")


def test_importing_needs_neither_pyplot_nor_a_network_library():
    code = "import sys, keras_diffusion.figures as _; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib.pyplot", "tensorflow", "keras"} & set(done.stdout.split())
