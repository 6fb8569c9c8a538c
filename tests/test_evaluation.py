"""The measures of quality on sets whose answer is known, and the program around them."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import one_line
from scipy import stats

from keras_diffusion import data
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import (
    distances,
    doctor,
    intervals,
    measure,
    seeds,
    subjects,
    sweep,
)
from keras_diffusion.evaluation.judge import of_classes
from keras_diffusion.evaluation.redrawn import Redrawn
from keras_diffusion.sampling import onnx_classifier

ROOT = pathlib.Path(__file__).parents[1]


def normal(count, features=6, *, mean=0.0, scale=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, scale, (count, features)).astype(np.float32)


# --- distances


def test_frechet_distance_of_normals_is_the_closed_form():
    one, other = normal(200_000), normal(200_000, mean=0.5, scale=2.0, seed=1)
    # 6 * (0.5² + 1 + 4 - 2*2)
    assert distances.frechet(one, other) == pytest.approx(6 * 1.25, rel=0.02)
    assert distances.frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert distances.frechet(one, other) == pytest.approx(distances.frechet(other, one))


def test_frechet_distance_knows_of_correlation():
    rng = np.random.default_rng(0)
    one = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 100_000)
    other = rng.multivariate_normal([0, 0], [[1, -0.9], [-0.9, 1]], 100_000)
    # both have eigenvalues 1.9 and 0.1, in each other's directions: 4 - 2*2*sqrt(0.19)
    assert distances.frechet(one, other) == pytest.approx(4 - 4 * np.sqrt(0.19), rel=0.01)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy import linalg

    rng = np.random.default_rng(3)
    one, other = (rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8)) for _ in range(2))
    (m1, c1), (m2, c2) = distances.moments(one), distances.moments(other)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert distances.frechet(one, other) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased():
    values = [
        distances.kernel(normal(300, seed=2 * k), normal(300, seed=2 * k + 1)).mean()
        for k in range(20)
    ]
    spread = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * spread
    assert distances.kernel(normal(300), normal(300, mean=0.5, seed=1)).mean() > 20 * spread


def test_kernel_distance_of_a_block_is_the_mean_over_all_pairs(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCKS", 1)
    x, y = normal(7), normal(7, seed=1)
    k = lambda a, b: (a.astype(float) @ b.astype(float) / 6 + 1) ** 3  # noqa: E731
    within = [
        np.mean([k(s[i], s[j]) for i in range(7) for j in range(7) if i != j]) for s in (x, y)
    ]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    np.testing.assert_allclose(distances.kernel(x, y), [expected], rtol=1e-6)


def test_blocks_of_the_kernel_distance_share_no_row_and_spread_as_their_error():
    """Their standard error is that of the distance: over many pairs of sets it says how the distances spread."""
    distance, error = [], []
    for k in range(40):
        values = distances.kernel(normal(400, seed=2 * k), normal(400, seed=2 * k + 1))
        distance.append(values.mean())
        error.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert np.std(distance) == pytest.approx(np.mean(error), rel=0.35)


def test_manifold_of_equal_and_of_distant_sets():
    real = normal(400)
    same = {k: v.mean() for k, v in distances.manifold(normal(400, seed=1), real).items()}
    assert all(same[name] > 0.85 for name in ("precision", "recall", "coverage"))
    assert same["density"] == pytest.approx(1, abs=0.15)
    far = {k: v.mean() for k, v in distances.manifold(normal(400, mean=50), real).items()}
    assert set(far.values()) == {0.0}


def test_a_few_good_images_have_precision_without_recall():
    real = normal(500)
    fake = np.repeat(real[:5], 100, axis=0) + normal(500, scale=1e-3, seed=1)
    found = {k: v.mean() for k, v in distances.manifold(fake, real).items()}
    assert found["precision"] == 1 and found["recall"] < 0.05 and found["coverage"] < 0.1


def test_manifold_is_what_its_definition_says():
    fake, real = normal(30, 3), normal(40, 3, mean=0.5, seed=1)
    found = distances.manifold(fake, real)
    radius = lambda s, i: np.sort(np.linalg.norm(s - s[i], axis=1))[distances.NEIGHBOURS]  # noqa: E731
    inside = np.array(
        [[np.linalg.norm(f - r) <= radius(real, j) for j, r in enumerate(real)] for f in fake]
    )
    reached = [
        any(np.linalg.norm(f - r) <= radius(fake, i) for i, f in enumerate(fake)) for r in real
    ]
    np.testing.assert_array_equal(found["precision"], inside.any(axis=1))
    np.testing.assert_array_equal(found["coverage"], inside.any(axis=0))
    np.testing.assert_array_equal(found["recall"], reached)
    np.testing.assert_allclose(found["density"], inside.sum(axis=1) / distances.NEIGHBOURS)


def test_the_nearest_image_is_found():
    among = np.random.default_rng(0).random((50, 4, 4, 1)).astype(np.float32)
    distance, index = distances.nearest(among[[7, 3]] + 0.01, among)
    np.testing.assert_array_equal(index, [7, 3])
    np.testing.assert_allclose(distance, 0.04, rtol=1e-3)


# --- intervals


def test_wilson_interval_holds_at_the_ends():
    low, high = intervals.proportion(np.ones(1000, bool))
    assert high == 1 and low == pytest.approx(1000 / (1000 + stats.norm.ppf(0.975) ** 2))
    assert intervals.proportion(np.arange(100) < 50) == pytest.approx([0.4038, 0.5962], abs=1e-3)


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = normal(400, 1)[:, 0]
    low, high = intervals.bootstrap(400, lambda rows: values[rows].mean(), resamples=2000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)


def test_bootstrap_interval_lies_about_the_estimate_though_resampling_shifts_it():
    some, other = normal(300, 40), distances.moments(normal(3000, 40, seed=1))
    statistic = lambda rows: distances.frechet_of_moments(distances.moments(some[rows]), other)  # noqa: E731
    estimate = statistic(np.arange(300))
    low, high = intervals.bootstrap(300, statistic, resamples=50)
    shifted = statistic(np.random.default_rng(5).integers(0, 300, 300))
    assert low < estimate < high < shifted


# --- measuring


class Reader:
    """A judge of images [N, 2, 2, 1]: the class is the brightest pixel, the features are the pixels."""

    num_classes, num_features = 4, 8
    sha256 = "0" * 64
    says = {"test_accuracy": 1.0}

    def __call__(self, images):
        flat = images.reshape(len(images), 4)
        return flat, np.concatenate([flat, flat**2], axis=1)


def bright(count, *, seed=0, noise=0.2):
    """uint8 images [4*count, 2, 2, 1] with one bright pixel, and its number."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), count)
    images = rng.uniform(0, noise, (4 * count, 4))
    images[np.arange(4 * count), labels] = rng.uniform(0.5, 1, 4 * count)
    return (255 * images).astype(np.uint8).reshape(-1, 2, 2, 1), labels


class Data:
    num_classes, class_names = 4, ("a", "b", "c", "d")

    def __init__(self):
        self.x_train, self.y_train = bright(300)
        self.x_test, self.y_test = bright(100, seed=1)

    def identity(self):
        return {"sha256": "1" * 64}


def test_the_floor_is_real_images_that_are_not_compared_with():
    data, labels = Data(), np.repeat(np.arange(4), 50)
    real = measure.references(Reader(), data, labels)
    assert len(real.floor) == 200 and len(real.train) == 1000 and len(real.test) == 400
    np.testing.assert_array_equal(np.sort(real.floor.labels), labels)
    pixels = {image.tobytes() for image in real.floor.images}
    assert not pixels & {image.tobytes() for image in real.train.images}
    assert len(real.frechet_floor) == 5 and len(set(real.frechet_floor)) == 5
    expected = distances.frechet(real.floor.features, real.test.features)
    assert real.frechet_floor[0] == pytest.approx(expected)
    found = measure.measure(real.floor, real)
    assert found["accuracy"]["value"] == 1 and found["precision"]["value"] > 0.8
    low, high = found["frechet_test"]["interval"]
    assert low < found["frechet_test"]["value"] < high


def test_half_of_the_real_images_of_a_class_are_left_to_compare_with():
    with pytest.raises(UserError) as error:
        measure.references(Reader(), Data(), np.repeat(np.arange(4), 151))
    assert "150" in one_line(error)


def test_accuracy_and_confusion_are_counted_by_what_was_asked():
    images, labels = bright(50)
    wrong = labels.copy()
    wrong[:10] = 3  # asked for a 3, drawn as 0
    found = measure.accuracy(measure.judged(Reader(), images, wrong))
    assert found["accuracy"]["value"] == pytest.approx(190 / 200)
    assert found["confusion"][3] == [10, 0, 0, 50] and found["confusion"][0] == [40, 0, 0, 0]
    assert found["accuracy_per_class"][3]["value"] == pytest.approx(50 / 60)


def test_copies_of_training_images_are_noticed():
    data, labels = Data(), np.repeat(np.arange(4), 50)
    real = measure.references(Reader(), data, labels)
    copies = measure.judged(Reader(), real.train.images[::5], real.train.labels[::5])
    found, index, distance = measure.memorisation(copies, real)
    assert found["share_nearer_than_real"]["value"] == 1
    np.testing.assert_array_equal(index, np.arange(0, 1000, 5))
    new, _, _ = measure.memorisation(real.floor, real)
    assert new["share_nearer_than_real"]["value"] == pytest.approx(0.01, abs=0.006)


def test_too_few_images_are_refused_with_the_number_that_is_needed():
    with pytest.raises(UserError) as error:
        measure.check_count(200, 128)
    assert "256" in one_line(error)
    measure.check_count(256, 128)


# --- the sweep


class Subject:
    """Draws bright pixels, dimmer with fewer steps; a guided step costs two calls."""

    name, num_classes, weights = "subject", 4, "abc float32"

    def __init__(self):
        self.drawn = []

    def calls(self, **given):
        return given["num_steps"] * (1 if given["guidance_scale"] == 1 else 2)

    def draw(self, labels, **given):
        self.drawn.append(given)
        images, _ = bright(len(labels) // 4, seed=given["seed"] + 7, noise=1 / given["num_steps"])
        return images.astype(np.float32) / 255


def swept(folder, subject, ways, **options):
    return sweep.sweep(
        subject, Reader(), Data(), folder, ways, count=200, say=lambda _: None, **options
    )


def ways(steps=(2, 5), scales=(1.0, 2.0)):
    return sweep.grid(["ddpm"], steps, ["uniform"], scales, [None])


def test_a_sweep_goes_on_and_measures_nothing_twice(tmp_path):
    subject = Subject()
    swept(tmp_path / "sweep", subject, ways(steps=(2,)))
    assert len(subject.drawn) == 2
    record = swept(tmp_path / "sweep", subject, ways())
    assert [given["num_steps"] for given in subject.drawn] == [2, 2, 5, 5]
    assert [row["calls"] for row in record["rows"]] == [2, 4, 5, 10]
    assert record["best"]["5"]["num_steps"] == 5 and record["best"]["5"]["guidance_scale"] == 1
    lines = (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()
    assert len(lines) == 5 and (tmp_path / "sweep" / "sweep.png").is_file()


@pytest.mark.parametrize("change", ["weights", "seed", "judge"])
def test_a_sweep_of_something_else_is_refused(tmp_path, change, monkeypatch):
    swept(tmp_path / "sweep", Subject(), ways(steps=(2,)))
    before = (tmp_path / "sweep" / "sweep.json").read_text()
    other, seed = Subject(), int(change == "seed")
    if change == "weights":
        other.weights = "def float32"
    if change == "judge":
        monkeypatch.setattr(Reader, "sha256", "2" * 64)
    with pytest.raises(UserError) as error:
        swept(tmp_path / "sweep", other, ways(), seed=seed)
    assert change in one_line(error)
    assert (tmp_path / "sweep" / "sweep.json").read_text() == before


def test_guidance_that_is_off_has_no_intervals():
    found = sweep.grid(["ddim"], [5], ["uniform"], [1.0, 2.0], [None, (0.2, 0.8)])
    assert [(way["guidance_scale"], way["guidance_interval"]) for way in found] == [
        (1.0, None), (2.0, None), (2.0, (0.2, 0.8)),
    ]  # fmt: skip


def test_each_way_is_sharpened_as_often_as_asked():
    found = sweep.grid(["ddpm"], [5], ["uniform"], [1.0], [None], sharpens=[0.0, 0.5])
    assert [sweep._drawn(way)["sharpen"] for way in found] == [0.0, 0.5]


def test_eta_is_of_ddim_and_times_of_ones_own_have_their_own_count():
    found = sweep.grid(
        ["ddpm", "ddim"], [5], ["uniform"], [1.0], [None], etas=[0.0, 0.9], times=[[300.0, 40.0]]
    )
    assert [(way["num_steps"], way["spacing"], way["sampler"], way["eta"]) for way in found] == [
        (2, [300.0, 40.0], "ddpm", None), (2, [300.0, 40.0], "ddim", 0.0), (2, [300.0, 40.0], "ddim", 0.9),
        (5, "uniform", "ddpm", None), (5, "uniform", "ddim", 0.0), (5, "uniform", "ddim", 0.9),
    ]  # fmt: skip


def test_times_of_ones_own_survive_the_file(tmp_path):
    found = sweep.grid(["ddim"], [], [], [2.0], [(0.4, 0.8)], etas=[0.9], times=[[300.0, 40.0]])
    subject = Subject()
    swept(tmp_path / "sweep", subject, found)
    swept(tmp_path / "sweep", subject, found)
    assert len(subject.drawn) == 1
    way = sweep.best_of_file(tmp_path / "sweep", calls=10, weights="abc")
    assert way == {
        "sampler": "ddim", "num_steps": 2, "spacing": [300.0, 40.0], "eta": 0.9, "sharpen": 0.0,
        "guidance_scale": 2.0, "guidance_interval": [0.4, 0.8],
    }  # fmt: skip
    row = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"][0]
    assert "(uniform), sharpened 0.5, guid" in sweep.describe(
        {**row, "spacing": "uniform", "sharpen": 0.5}
    )
    assert "ddim with eta 0.9, 2 steps (at 300, 40), guidance 2 in t/T" in sweep.describe(row)


ROWS = [
    {"calls": 5, "accuracy": 0.990, "frechet": 2.0},
    {"calls": 10, "accuracy": 0.996, "frechet": 9.0},
    {"calls": 10, "accuracy": 0.999, "frechet": 11.0},
    {"calls": 20, "accuracy": 0.995, "frechet": 5.0},
    {"calls": 5, "accuracy": 0.991, "frechet": 3.0},
]


@pytest.mark.parametrize(("calls", "row"), [(4, None), (5, 4), (10, 1), (20, 3), (600, 3)])
def test_the_best_is_the_nearest_of_the_accurate(calls, row):
    assert sweep.best(ROWS, calls) == (None if row is None else ROWS[row])


def test_the_best_of_a_file_is_its_models_only(tmp_path):
    swept(tmp_path / "sweep", Subject(), ways())
    path = tmp_path / "sweep" / "sweep.json"
    way = sweep.best_of_file(path, calls=5, weights="abc")
    assert way == {
        "sampler": "ddpm", "num_steps": 5, "spacing": "uniform", "sharpen": 0.0, "guidance_scale": 1.0,
        "variance": "beta_tilde", "guidance_interval": (0.0, 1.0),  # not the model's own
    }  # fmt: skip
    assert sweep.best_of_file(path.parent, calls=5, weights="abc") == way
    for options, word in (({"weights": "abd"}, "weights"), ({"calls": 1}, "1 network")):
        with pytest.raises(UserError) as error:
            sweep.best_of_file(path, **{"calls": 5, "weights": "abc", **options})
        assert word in one_line(error)
    later = path.read_text().replace(f'"format": {sweep.FORMAT}', f'"format": {sweep.FORMAT + 1}')
    assert later != path.read_text()
    for text, word in ((f'{{"format": {sweep.FORMAT}}}', "got none"), (later, "got none"), ('{"format": 1, "rows": [], "weights": "abc"}', "earlier")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=word):
            sweep.best_of_file(path, calls=5, weights="abc")


# --- the doctor


def examined(network, prediction="eps"):
    from keras_diffusion import schedules

    x0, labels = bright(10)
    schedule = schedules.linear_schedule(100)
    return doctor.examine(network, schedule, prediction, x0 / np.float32(255), labels, null_label=4)


def test_a_network_that_ignores_its_class_is_dead():
    found = examined(lambda x, t, label: -x)
    assert found.gap == 0
    (line,) = doctor.warnings(found)
    assert "dead" in line and "\n" not in line


def test_the_gap_is_measured_in_the_image():
    """A network of x0 that adds 0.1 to what it says where there is a class."""
    found = examined(lambda x, t, label: x + 0.1 * (label < 4)[:, None, None, None], "x0")
    assert found.gap == pytest.approx(0.1, rel=1e-5) and doctor.warnings(found) == []


def test_guidance_that_makes_all_images_alike_saturates():
    images, labels = bright(20)
    real = images / 255
    assert doctor.variety(real, real, labels) == pytest.approx(1)
    assert doctor.variety(0.5 * real, real, labels) == pytest.approx(1)  # not by being fainter
    same = np.stack([real[labels == k][0] for k in range(4)])[labels]
    assert doctor.variety(same, real, labels) == pytest.approx(0, abs=1e-9)
    # unit vectors at right angles differ by 1, at 60 degrees by a half
    right, sharp = np.array([[1, 0], [0, 1.0]]), np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    assert doctor.variety(sharp, right, np.zeros(2, int)) == pytest.approx(0.5)
    found = doctor.Examination(gap=0.1, lowest=-3, variety=0.25)
    (line,) = doctor.warnings(found, scale=5.0)
    assert "guidance 5 saturates" in line


@pytest.mark.parametrize(
    ("losses", "lowest", "prediction", "word"),
    [
        ([0.5, 0.40, 0.39], -0.17, "eps", "activation"),
        ([0.5, 0.40, 0.39], -3.0, "eps", "last layer"),
        ([0.40, 0.30], -0.17, "eps", None),
        ([0.40], -0.17, "eps", None),
        ([0.40, 0.40], -0.17, "v", None),
    ],
)
def test_the_plateau_is_explained(losses, lowest, prediction, word):
    line = doctor.plateau(losses, doctor.Examination(gap=1, lowest=lowest), prediction)
    assert line is None if word is None else word in line


# --- the judge


def test_a_file_that_is_no_judge_is_refused():
    with pytest.raises(UserError) as error:
        onnx_classifier.Classifier(ROOT / "keras_diffusion" / "models" / "digits.onnx")
    assert "train_judge.py" in one_line(error)


def evaluate(*arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "evaluate.py", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


BAD = [
    (["no-such.onnx"], "no-such.onnx"),
    (["--num-samples", "0"], "0"),
    (["--scales", "1,2"], "--sweep"),
    (["--sweep", "--samplers", "ddpm,plms"], "plms"),
    (["--sweep", "--intervals", "0.9-0.1"], "0.9-0.1"),
    (["--sweep", "--step-counts", "5,,6"], "''"),
    (["--sweep", "--etas", "1.1"], "1.1"),
    (["--times", "300,100"], "--sweep"),
    (["--seeds", "1"], "2..1000"),
    (["--sweep", "--seeds", "2"], "--seeds: expected without --sweep"),
    (["--seed", str(2**63 - 2), "--seeds", "3"], "--seeds: expected seeds below 2**63"),
    (["--sweep", "--times", "300,100", "--spacings", "lam"], "--step-counts"),
    (["--data", "mnist-5k", "--sweep", "--times", "300,200,250"], "250"),
    ([], "--data: expected the data that the model was trained on, mnist.npz"),
    (["--data", "no.npz"], "no.npz"),
    (["--data", "mnist-5k", "--judge", "no.onnx"], "no.onnx"),
    (["--data", "mnist-5k", "--num-samples", "15"], "15"),
    (["--data", "mnist-5k", "--num-samples", "200"], "256"),
    (["--data", "mnist-5k", "--num-samples", "5000"], "225"),
    (["--data", "mnist-5k", "--steps", "301"], "301"),
    (["--data", "mnist-5k", "--out", "."], "evaluation.json"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=lambda value: " ".join(value))
def test_wrong_input_is_one_line_and_status_2(tmp_path, arguments, named):
    (tmp_path / "file").touch()
    done = evaluate(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and named in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_program_measures_the_model_that_comes_with_the_package(tmp_path):
    done = evaluate("--data", "mnist-5k", "--num-samples", "260", "--seeds", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    sampling = record["sampling"]
    assert sampling["network_calls"] == 10  # five steps, of some twice
    assert (
        5 < sampling["network_calls_mean"] < 6
        and sampling["redrawn"] == sampling["network_calls_mean"] / 5 - 1
    )
    assert sampling["reader"] != record["judge"]["sha256"]
    assert record["generated"]["accuracy"]["value"] > 0.95
    assert record["real"]["accuracy"]["value"] > 0.95
    assert 0.5 < record["frechet_over_floor"] < 5
    assert record["conditioning"]["gap"] > 0.03 and record["conditioning"]["warnings"] == []
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert names == {"evaluation.json", "confusion.png", "neighbours.png", "samples.png"}
    assert "class accuracy" in done.stdout and "coverage" in done.stdout
    check_seeds(record, done.stdout)


def check_seeds(record, said):
    first, other = record["seeds"]["rows"]
    assert first == {
        "seed": 0,
        "accuracy": record["generated"]["accuracy"]["value"],
        "frechet": record["generated"]["frechet_test"]["value"],
        "over_floor": record["frechet_over_floor"],
        "network_calls_mean": record["sampling"]["network_calls_mean"],
    }
    assert other["seed"] == 1 and other["frechet"] != first["frechet"]
    assert other["accuracy"] > 0.95 and 0.5 < other["over_floor"] < 5
    assert 5 < other["network_calls_mean"] < 6
    mean = (first["frechet"] + other["frechet"]) / 2
    assert record["seeds"]["mean"]["frechet"] == pytest.approx(mean)
    apart = abs(first["frechet"] - other["frechet"]) / 2**0.5
    assert record["seeds"]["deviation"]["frechet"] == pytest.approx(apart)
    assert f"{mean:.4f}" in said and f"{apart:.4f}" in said


def test_another_seeds_row_is_what_that_seed_alone_has():
    images, subject = data.load("mnist-5k"), subjects.open_subject(None)
    judge = of_classes(images.class_names)
    labels = subjects.labels_for(subject, 30)
    real = measure.references(judge, images, labels)
    redraw = Redrawn.of(subject, judge, 0.95)
    row = seeds.score(subject, judge, real, labels, seed=4, redraw=redraw, asked={})
    drawn = subject.model.sample(labels, seed=4, redraw=0.95)
    some = measure.judged(judge, drawn, labels)
    assert row["accuracy"] == (some.read == labels).mean()
    expected = distances.frechet(some.features, real.test.features)
    assert row["frechet"] == pytest.approx(expected)
    assert row["over_floor"] == pytest.approx(expected / real.frechet_floor.mean())
    assert row["network_calls_mean"] == pytest.approx(5 * redraw.read / 30)
    assert redraw.read > 30 and redraw.anew().read == 0


def test_the_program_sweeps(tmp_path):
    arguments = ("--data", "mnist-5k", "--num-samples", "260", "--sweep", "--samplers", "ddim")
    done = evaluate(*arguments, "--step-counts", "2,3", "--scales", "1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [row["calls"] for row in rows] == [2, 4, 3, 6]
    times = (
        "--sharpens",
        "0.5",
        "--times",
        "300,100",
        "--times",
        "300,150,50",
        "--etas",
        "0.5,1",
        "--scales",
        "1",
    )
    done = evaluate(*arguments, *times, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [row["sharpen"] for row in rows] == [0] * 4 + [0.5] * 4
    found = [(row["spacing"], row["eta"]) for row in rows[4:]]
    assert found == [([300, 100], 0.5), ([300, 100], 1), ([300, 150, 50], 0.5), ([300, 150, 50], 1)]


def test_a_sweep_draws_what_its_rows_say_and_not_the_models_own_interval():
    (way,) = sweep.grid(["ddim"], [3], ["uniform"], [2.0], [None])
    for some in (way, {**way, "eta": None}):
        drawn = sweep._drawn(some)
        assert drawn["guidance_interval"] == (0.0, 1.0) and drawn["eta"] == 0.0
    assert sweep._drawn({**way, "sampler": "ddpm", "eta": None})["variance"] == "beta_tilde"
