"""Distillation: where the teacher goes in several steps, the student is to go in one."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NUM_CLASSES, make_small, make_unet

import keras_diffusion as kd
from keras_diffusion import distillation, runs, schedules
from keras_diffusion.report import found as report
from keras_diffusion.sampling import guidance, loop, onnx_model, request, samplers

T = 100
TIMES = [100, 60, 30]
SCHEDULE = schedules.cosine_schedule(T)
INTERVAL = (0.25, 0.85)


@pytest.fixture(scope="module")
def teacher():
    """A rough network as a model: what it draws doesn't matter."""
    return kd.DiffusionModel(make_small(), SCHEDULE, prediction="v", ema_decay=None)


def make(teacher, **options):
    asked = {"guidance_scale": 2.0, "guidance_interval": INTERVAL, "teacher_steps": 2, **options}
    made = kd.distill(teacher, spacing=TIMES, **asked)
    made.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True)
    return made


def noised(images, rows):
    """What the student sees: images, each at the time of one of its calls."""
    alpha, sigma = SCHEDULE.at(np.array(TIMES, float)[rows])
    eps = np.random.default_rng(1).normal(size=images.shape)
    spread = (slice(None), None, None, None)
    return (alpha[spread] * images + sigma[spread] * eps).astype(np.float32)


def test_students_step_ends_where_the_teachers_steps_end(teacher, images):
    x0, labels = images
    rows = np.arange(len(x0)) % len(TIMES)
    xt = noised(x0, rows)
    student = make(teacher)
    target = student._target(
        tf.constant(xt), tf.constant(rows, tf.int32), tf.constant(labels)
    ).numpy()

    plan = samplers.plan(SCHEDULE, "v", sampler="ddim", spacing=TIMES)
    fine = samplers.plan(SCHEDULE, "v", sampler="ddim", spacing=[100, 80, 60, 45, 30, 15])
    weights = guidance.weights(fine, INTERVAL)
    assert set(weights) == {0.0, 1.0}  # some rows are guided, some aren't

    def network(x, t, label):
        return teacher.denoise(x, t, label).numpy()

    for row in range(len(TIMES)):
        chosen = rows == row
        asked = request.make(
            labels[chosen], image_shape=x0.shape[1:], num_classes=NUM_CLASSES, guidance_scale=2.0
        )
        part = slice(2 * row, 2 * row + 2)
        run = loop.runner(network, null_label=NUM_CLASSES)
        x, _ = run(
            fine[part], xt[chosen], 0 * xt[chosen], asked, weights=weights[part], noise=[0.0, 0.0]
        )
        given = plan.rows[row]
        estimate = given[0] * xt[chosen] + given[1] * target[chosen]
        ends = given[2] * xt[chosen] + given[3] * estimate
        np.testing.assert_allclose(ends, x, atol=2e-5)
        assert estimate.min() > -1e-4 and estimate.max() < 1 + 1e-4  # a mean of clipped estimates


def test_a_student_of_single_unguided_steps_has_nothing_to_learn(teacher, images):
    # The target is clipped where the teacher's estimate is, the student's output isn't: so in its estimates.
    x0, labels = images
    student = make(teacher, teacher_steps=1, guidance_scale=1.0)
    rows = np.arange(len(x0)) % len(TIMES)
    xt = noised(x0, rows)
    given = student._plan.rows[rows][:, :, None, None, None]
    target = student._target(tf.constant(xt), tf.constant(rows, tf.int32), tf.constant(labels))
    out = student.denoise(xt, np.array(TIMES)[rows] / T, labels).numpy()
    for found in (target.numpy(), out):
        estimate = np.clip(given[:, 0] * xt + given[:, 1] * found, 0, 1)
        expected = np.clip(given[:, 0] * xt + given[:, 1] * out, 0, 1)
        np.testing.assert_allclose(estimate, expected, atol=2e-5)


def test_only_guided_images_are_called_twice(teacher, images, monkeypatch):
    x0, labels = images
    student = make(teacher)
    calls = []
    denoise = student.denoise
    monkeypatch.setattr(
        student, "denoise", lambda x, *rest, **k: calls.append(len(x)) or denoise(x, *rest, **k)
    )
    rows = np.zeros(len(x0), np.int32)
    rows[:5] = 2  # at t/T = 0.3, guided, and 0.15, not; the others at 1, not, and 0.8, guided
    student._target(tf.constant(noised(x0, rows)), tf.constant(rows), tf.constant(labels))
    assert calls == [24 + 1 + 5, 24 + 1 + 19]  # and the first image, so that there is always one


def test_batches_without_a_guided_image_are_trained_on(teacher, images):
    x0, labels = images
    student = make(teacher, guidance_interval=(0.1, 0.25))  # the last call alone
    student.compile(optimizer="adam")
    found = student.fit(x0[:2], labels[:2], batch_size=1, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(found).all()


def test_times_of_a_batch_are_spread_evenly(teacher):
    student = make(teacher)
    for step in range(5):
        rows = student._rows(10, tf.constant(step, tf.int64)).numpy()
        counts = np.bincount(rows, minlength=len(TIMES))
        assert counts.sum() == 10 and counts.min() >= 3 and counts.max() <= 4


def test_training_brings_the_student_to_its_target(teacher, images):
    x0, labels = images
    student = make(teacher, ema_decay=None, label_dropout=0.0)
    student.compile(optimizer=keras.optimizers.Adam(3e-3))
    before = student.evaluate(x0, labels, batch_size=24, verbose=0)
    statistics = [w.numpy() for w in student.network.weights if "moving" in w.path]
    student.fit(x0, labels, batch_size=24, epochs=60, verbose=0)
    after = student.evaluate(x0, labels, batch_size=24, verbose=0)
    assert after < 0.8 * before
    held = [w.numpy() for w in student.network.weights if "moving" in w.path]
    assert all((a == b).all() for a, b in zip(statistics, held, strict=True))
    theirs = teacher.network.get_weights()
    assert all((a == b).all() for a, b in zip(theirs, student.teacher.get_weights(), strict=True))


def test_student_draws_by_its_own_times_unguided(teacher):
    student = make(teacher).student()
    assert type(student) is kd.DiffusionModel
    told = student.sample(
        [0, 1], sampler="ddim", spacing=TIMES, guidance_scale=1.0, guidance_interval=(0, 1)
    )
    np.testing.assert_array_equal(student.sample([0, 1]), told)
    assert (
        np.abs(student.sample([0, 1], num_steps=5) - told).max() > 1e-3
    )  # other times where asked
    assert np.abs(student.sample([0, 1], guidance_scale=3.0) - told).max() > 1e-3


def test_distillation_goes_on_from_a_file_as_if_nothing_had_happened(teacher, images, tmp_path):
    x0, labels = images
    whole, first = make(teacher), make(teacher)
    for model in (whole, first):
        model.fit(x0, labels, batch_size=24, epochs=2, verbose=0, shuffle=False)
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    assert type(second) is kd.Distillation and second.sampling == first.sampling
    second.run_eagerly = True
    for model in (whole, second):
        model.fit(x0, labels, batch_size=24, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_steps": 0}, "teacher_steps: expected a positive integer, got 0"),
        ({"guidance_scale": "2"}, "guidance_scale: expected a number, got '2'"),
        ({"guidance_scale": float("inf")}, "guidance_scale: expected a number, got inf"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval: expected (low, high) of t/T"),
    ],
)
def test_wrong_arguments_are_refused(teacher, options, message):
    with pytest.raises(ValueError) as caught:
        make(teacher, **options)
    assert message in str(caught.value)


def test_one_step_denoisers_have_no_students():
    model = kd.DiffusionModel(
        make_unet(conditioning=None), schedules.denoiser_schedule(0.5), prediction="x0"
    )
    with pytest.raises(ValueError, match="model: expected one that draws from noise"):
        kd.distill(model, num_steps=4)


DISTILL = (
    *("scripts/distill.py", "run", "--limit", "64", "--steps", "3", "--guidance", "1.5"),
    *("--guidance-interval", "0.35,0.7", "--epochs", "2", "--batch-size", "16"),
)


@pytest.fixture(scope="module")
def student(finished_run):
    """Folder of a student, with the checkpoints of steps 6 and 8, its last."""
    call, folder = finished_run
    call(*DISTILL, "--checkpoint-steps", "3")
    return folder / "run-distilled"


def test_distill_makes_a_run_that_draws_in_its_own_steps(finished_run, student):
    call, folder = finished_run
    record = json.loads((student / "run.json").read_text())
    assert record["status"] == "finished" and record["steps"] == 8
    assert record["distilled"]["times"] == [300.0, 200.0, 100.0]
    call("export/convert.py", student.name, "--to", "exported")
    exported = onnx_model.load(folder / "exported/denoiser.onnx")
    ours = runs.open_model(student / "model.keras").sample([0, 1])
    theirs = exported.sample([0, 1])
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    said = exported.sample([0, 1], sampler="ddim", spacing=[300, 200, 100], guidance_scale=1.0)
    np.testing.assert_array_equal(said, theirs)
    refused = call(*DISTILL, status=2)
    assert refused.stderr == (
        "distill.py: the run in run-distilled is finished; --force replaces it\n"
    )


def test_distill_goes_on_where_it_was_stopped(finished_run, student):
    call, folder = finished_run
    stopped = folder / "stopped"
    shutil.copytree(student, stopped)
    # What a kill in the last steps leaves.
    (stopped / "checkpoints/step-00000008.keras").unlink()
    (stopped / "model.keras").unlink()
    record = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps({**record, "status": "running"}))
    other = call(*DISTILL, "--out", "stopped", "--resume", "--rate", "0.1", status=2)
    assert other.stderr == ("distill.py: --resume: --rate was 0.0005 in this run and is 0.1 now\n")
    call(*DISTILL[:2], "--out", "stopped", "--resume")  # the rest as it was
    whole, again = (runs.open_model(path / "model.keras") for path in (student, stopped))
    for ours, theirs in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    sessions = json.loads((stopped / "run.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 6]
    assert (student / "metrics.csv").read_text().count("\n") == 9
    rows = [path.joinpath("metrics.csv").read_text().split("\n") for path in (student, stopped)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.split(",")[:4] == theirs.split(",")[:4]  # all but images per second


def test_what_is_refused_leaves_a_student_as_it_was(finished_run, student):
    call, folder = finished_run
    square = np.zeros((4, 8, 8), np.uint8)
    few = {"x_train": square, "y_train": np.arange(4), "x_test": square, "y_test": np.arange(4)}
    np.savez(folder / "small.npz", **few)
    before = {path: path.stat().st_mtime_ns for path in student.rglob("*") if path.suffix}
    refused = call(*DISTILL, "--force", "--data", "small.npz", status=2)
    assert refused.stderr == (
        "distill.py: --data: expected images [28, 28, 1], which the teacher draws, got [8, 8, 1]\n"
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    call(*DISTILL, "--out", "new", "--data", "small.npz", status=2)
    assert not (folder / "new").exists()


def test_every_call_of_the_student_is_trained():
    """Weighed by min(SNR, 5), as the teacher may be, the first call wouldn't be: alpha is next to 0 there."""
    model = kd.DiffusionModel(make_small(), SCHEDULE, prediction="v", ema_decay=None, min_snr=5.0)
    weights = make(model)._weight(tf.constant(TIMES, tf.float32) / T).numpy().ravel()
    alpha, sigma = SCHEDULE.at(np.array(TIMES, float))
    # v = alpha*eps - sigma*x0 at a given xt: an error of x0 is one of v, times -1/sigma.
    np.testing.assert_allclose(weights / sigma**2, np.maximum((alpha / sigma) ** 2, 1), rtol=1e-3)


@pytest.mark.parametrize("edge", [[100, 60, 30, 0], [3, 1, 0]])
def test_teachers_times_are_whole_where_there_is_room(edge):
    times = distillation._between(np.array(edge, float), 3, whole=True)
    assert (np.diff(times) < 0).all() and len(times) == 3 * (len(edge) - 1) + 1
    assert set(edge) <= set(times)
    if edge[0] == 100:
        np.testing.assert_array_equal(times, [100, 87, 73, 60, 50, 40, 30, 20, 10, 0])


def test_flows_and_networks_without_classes_have_students(images):
    network = make_unet(conditioning="multiply")
    flow = kd.DiffusionModel(network, schedules.flow_schedule(T), prediction="flow", ema_decay=None)
    made = kd.distill(flow, num_steps=2)
    made.compile(optimizer="adam", run_eagerly=True)
    found = made.fit(images[0], batch_size=24, verbose=0).history["loss"]
    assert np.isfinite(found).all()
    drawn = made.student().sample(num_images=2)
    same = made.student().sample(num_images=2, sampler="ddim", num_steps=2)
    np.testing.assert_array_equal(drawn, same)
    with pytest.raises(ValueError, match="guidance_scale: expected 1 for a network without"):
        kd.distill(flow, num_steps=2, guidance_scale=2.0)


def test_the_write_up_leaves_students_out(finished_run, student):
    found, unreadable = report.find(student.parent)
    assert not [run for run in found if run.name == student.name]
    assert (student.name, "a distilled run, which is no part of the course") in unreadable
