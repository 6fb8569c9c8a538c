"""Whole runs of the course, small: figures, metrics, an interruption, and what a finished folder says."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
from conftest import make_small
from PIL import Image

from keras_diffusion import building, callbacks, course, fitting, illustrate, nn, settings
from keras_diffusion.data import ImageData
from keras_diffusion.errors import UserError
from keras_diffusion.runs import Run

COUNT, BATCH, EPOCHS = 90, 32, 2  # the third batch of an epoch is short
STEPS = 3 * EPOCHS


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (COUNT + 20, 28, 28, 1), np.uint8)
    y = (np.arange(COUNT + 20) % 10).astype(np.int32)
    names = tuple("0123456789")
    return ImageData(
        name="noise",
        source="a test",
        x_train=x[:COUNT],
        y_train=y[:COUNT],
        x_test=x[COUNT:],
        y_test=y[COUNT:],
        class_names=names,
    )


def ask(part, **given):
    return settings.resolve(
        {"part": part, "width": 4, "epochs": EPOCHS, "batch_size": BATCH, "data": "noise", **given}
    )


def train(folder, asked, images, *, resume=False, small=False, **options):
    """What `fit.py` does; `small`: with `small_course`."""
    run, said = Run(folder), []
    run.create()
    command = "python scripts/fit.py --resume"
    with small_course() if small else contextlib.nullcontext():
        finished = fitting.fit(
            asked, images, run, command=command, resume=resume, say=said.append, **options
        )
    return run, finished, said


@contextlib.contextmanager
def small_course():
    """The course with a network of two convolutions, samples of five steps, and without the picture of its UNet."""
    recipe_of = course.recipe_of

    def quick(*part, **edition):
        recipe = recipe_of(*part, **edition)
        sampling = {**dict(recipe.sampling), "num_steps": 5}
        kept = tuple(name for name in recipe.final_figures if name != "architecture")
        return dataclasses.replace(recipe, sampling=tuple(sampling.items()), final_figures=kept)

    def network(recipe, data, *, width):
        return make_small(image_shape=data.image_shape, num_classes=data.num_classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "recipe_of", quick)
        patch.setattr(building, "network", network)
        yield


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory, images):
    asked = ask("2.5", edition="flow")
    run, finished, _ = train(tmp_path_factory.mktemp("flow"), asked, images, small=True)
    assert finished
    return run


def weights(path):
    model = keras.models.load_model(path)
    return [np.asarray(w) for w in [*model.weights, *model.optimizer.variables]]


def assert_same_outcome(run, other):
    """Weights, optimizer, metrics and figures, bit for bit."""
    for ours, theirs in zip(weights(run.model), weights(other.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(run.read_metrics(), other.read_metrics(), strict=True):
        assert {**ours, "images_per_second": 0} == {**theirs, "images_per_second": 0}
    assert run.read()["figures"] == other.read()["figures"]
    assert len(list(run.figures.iterdir())) == len(list(other.figures.iterdir()))
    for path in other.figures.iterdir():
        assert (run.figures / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_finished_run_says_everything_about_itself(flow_run, images):
    record = flow_run.read()
    assert record["status"] == "finished" and record["steps"] == STEPS
    assert record["data"] == {**images.identity(), "class_names": list("0123456789")}
    assert record["settings"] == json.loads(
        json.dumps(settings.to_json(ask("2.5", edition="flow")))
    )
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert record["schedule"] == {"name": "flow", "num_train_steps": 300}
    (session,) = record["sessions"]
    assert {"tensorflow", "keras", "numpy", "python", "keras_diffusion"} <= set(session["versions"])
    assert record["command"].endswith("--resume")


def test_there_is_one_row_of_metrics_a_step(flow_run):
    rows = flow_run.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert all(np.isfinite(row["loss"]) and row["images_per_second"] > 0 for row in rows)
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([1e-2] * 3 + [1e-2 * 0.1**0.5] * 3)
    epochs = flow_run.read()["epochs"]
    assert epochs[1]["mean_loss"] == pytest.approx(np.mean([row["loss"] for row in rows[3:]]))


def test_the_optimizer_had_the_rate_that_the_metrics_name(flow_run):
    model = keras.models.load_model(flow_run.model)
    schedule = model.optimizer._learning_rate
    for row in flow_run.read_metrics():
        assert float(schedule(row["step"] - 1)) == pytest.approx(row["learning_rate"])


def test_our_own_recipe_trains_its_own_network_and_draws_every_figure(
    tmp_path, images, monkeypatch
):
    best = course.best

    def quick(recipe):
        sampling = {**dict(recipe.sampling), "num_steps": 10}  # CI's own runs take all 300
        return dataclasses.replace(best(recipe), sampling=tuple(sampling.items()))

    monkeypatch.setattr(course, "best", quick)
    run, finished, _ = train(tmp_path, ask("2.5", recipe="best", epochs=1), images)
    record = run.read()
    assert finished and record["network"] == "preconditioned_modulated_unet"
    pixels = images.x_train / 255
    assert record["prediction"] == "v" and record["min_snr"] is None
    assert record["data_std"] == pytest.approx(pixels.std(), abs=1e-4)
    config = keras.models.load_model(run.model).network.get_layer("precondition").get_config()
    assert config["mean"] == pytest.approx(pixels.mean(), abs=1e-4)
    assert config["std"] == record["data_std"] and config["schedule"] == record["schedule"]
    figures = {figure["file"].split("/")[-1] for figure in record["figures"]}
    assert {"architecture.png", "loss.png"} <= figures
    assert all((run.folder / figure["file"]).is_file() for figure in record["figures"])
    run.model.unlink()
    run.update(status="running")
    _, finished, _ = train(run.folder, ask("2.5", recipe="best", epochs=1), images, resume=True)
    assert finished and run.model.is_file()


def test_every_figure_that_the_part_owes_is_a_picture(flow_run):
    record = flow_run.read()
    files = {figure["file"] for figure in record["figures"]}
    for name in ("one_step_epoch_001", "one_step_epoch_002", "samples_epoch_001", "samples_epoch_002",
                 "guidance_epoch_002", "loss"):  # fmt: skip
        assert f"figures/{name}.png" in files
    assert "figures/sampling.gif" in files
    assert {figure["part"] for figure in record["figures"]} == {"2.5", "2.6"}
    for file in files:
        with Image.open(flow_run.folder / file) as image:
            assert min(image.size) > 50
    assert {f"figures/{path.name}" for path in flow_run.figures.iterdir()} == files


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a shell's background jobs, which tests may run in, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_run_stopped_within_an_epoch_goes_on_as_if_nothing_had_been(
    tmp_path, flow_run, images, monkeypatch
):
    asked = ask("2.5", edition="flow")
    after = callbacks.CleanStop.on_train_batch_end

    def interrupt(self, batch, logs=None):
        if int(self.model.step.numpy()) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        after(self, batch, logs)

    monkeypatch.setattr(callbacks.CleanStop, "on_train_batch_end", interrupt)
    run, finished, said = train(tmp_path / "run", asked, images, small=True)
    assert not finished and run.read()["status"] == "interrupted"
    assert any("to go on: python scripts/fit.py --resume" in line for line in said)
    assert [path.name for path in run.checkpoint_files()] == ["step-00000002.keras"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()

    run, finished, _ = train(tmp_path / "run", asked, images, resume=True, small=True)
    assert finished
    assert [session["from_step"] for session in run.read()["sessions"]] == [0, 2]
    assert_same_outcome(run, flow_run)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("figure", ["samples", "guidance"])  # of both epochs, and of the last
def test_a_run_stopped_while_it_draws_goes_on_with_its_figures(
    tmp_path, flow_run, images, monkeypatch, figure
):
    real = illustrate.FIGURES[figure]

    def interrupted(scene):
        os.kill(os.getpid(), signal.SIGINT)
        return real(scene)

    monkeypatch.setitem(illustrate.FIGURES, figure, interrupted)
    asked = ask("2.5", edition="flow")
    run, finished, said = train(tmp_path / "run", asked, images, small=True)
    assert not finished and run.read()["status"] == "interrupted"
    assert any("to go on: python scripts/fit.py --resume" in line for line in said)
    assert not (run.figures / "loss.png").exists() and not run.model.exists()
    monkeypatch.undo()

    run, finished, _ = train(tmp_path / "run", asked, images, resume=True, small=True)
    assert finished
    assert_same_outcome(run, flow_run)


def test_a_finished_run_of_constant_rate_goes_on_to_more_epochs(tmp_path, images):
    train(tmp_path / "run", ask("1.2.1", epochs=1), images)
    asked = settings.resolve(
        {"part": "1.2.1", "epochs": 2}, Run(tmp_path / "run").read()["settings"]
    )
    run, finished, _ = train(tmp_path / "run", asked, images, resume=True)
    whole, _, _ = train(tmp_path / "whole", ask("1.2.1", epochs=2), images)
    assert finished and run.read()["settings"]["epochs"] == 2
    assert [session["from_step"] for session in run.read()["sessions"]] == [0, 3]
    for ours, theirs in zip(weights(run.model), weights(whole.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["loss"] for row in run.read_metrics()] == [
        row["loss"] for row in whole.read_metrics()
    ]
    assert {f["file"] for f in run.read()["figures"]} >= {
        f["file"] for f in whole.read()["figures"]
    }


@pytest.mark.parametrize(
    "asked",
    [{"part": "2.5"}, {"part": "2.2", "recipe": "best"}, {"part": "2.2", "edition": "flow"}],
)
def test_a_rate_that_falls_over_the_epochs_allows_no_more(asked):
    before = settings.to_json(settings.resolve({**asked, "epochs": 2}))
    with pytest.raises(UserError, match="--epochs was 2 in this run, and its learning rate falls"):
        settings.resolve({"part": asked["part"], "epochs": 3}, before)


@pytest.fixture
def unfinished(tmp_path, flow_run):
    """The finished run, set back to the moment before its last figures."""
    shutil.copytree(flow_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    kept = [figure for figure in run.read()["figures"] if figure["epoch"] == 1]
    for path in run.figures.iterdir():
        if f"figures/{path.name}" not in {figure["file"] for figure in kept}:
            path.unlink()
    run.model.unlink()
    run.update(status="running", figures=kept)
    return run


def test_figures_that_a_kill_prevented_are_drawn_on_resuming(unfinished, flow_run, images):
    asked = ask("2.5", edition="flow")
    _, finished, _ = train(unfinished.folder, asked, images, resume=True, small=True)
    assert finished
    assert_same_outcome(unfinished, flow_run)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(unfinished, flow_run, images):
    newest = unfinished.checkpoint_files()[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    asked = ask("2.5", edition="flow")
    _, finished, said = train(unfinished.folder, asked, images, resume=True, small=True)
    assert finished and f"{newest.name} is damaged; trying the one before it" in said
    assert_same_outcome(unfinished, flow_run)


def test_only_damaged_checkpoints_are_one_line(unfinished, images):
    for path in unfinished.checkpoint_files():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="expected a readable checkpoint"):
        train(unfinished.folder, ask("2.5", edition="flow"), images, resume=True)


def test_a_network_that_this_version_does_not_build_is_not_gone_on_with(
    unfinished, images, monkeypatch
):
    monkeypatch.setattr(building, "network", lambda *_, **__: nn.unet(width=8, num_classes=10))
    with pytest.raises(UserError, match="of an earlier version"):
        train(unfinished.folder, ask("2.5", edition="flow"), images, resume=True)


def test_checkpoints_of_a_run_that_is_not_resumed_are_not_used(tmp_path, flow_run, images):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(flow_run.checkpoint_files()[-1], tmp_path / "run" / "checkpoints")
    run, finished, _ = train(tmp_path / "run", ask("1.2.1", epochs=1), images)
    assert finished and run.read()["steps"] == STEPS // EPOCHS
    assert keras.models.load_model(run.model).prediction == "x0"


def test_a_handful_of_images_of_few_classes_is_enough(tmp_path, images):
    few = dataclasses.replace(images, x_test=images.x_test[:3], y_test=images.y_test[:3]).limit(4)
    for part, edition in (("1.2.1", "ddpm"), ("2.2", "flow")):
        run, finished, _ = train(tmp_path / part, ask(part, edition=edition, epochs=1), few)
        assert finished and run.read()["steps"] == 1


def test_checkpoints_hold_the_last_two(flow_run):
    names = [path.name for path in flow_run.checkpoint_files()]
    assert names == ["step-00000003.keras", "step-00000006.keras"]


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "1.2.1",
            {
                *("denoised_epoch_001", "denoised_epoch_002", "loss"),
                *("architecture", "noising", "out_of_distribution"),
            },
        ),
        ("1.2.3", {"denoised_epoch_001", "denoised_epoch_002", "loss"}),
    ],
)
def test_denoisers_train_with_the_same_class(tmp_path, images, part, names):
    run, finished, _ = train(tmp_path / "run", ask(part), images)
    assert finished
    assert {path.stem for path in run.figures.iterdir()} == names
    model = keras.models.load_model(run.model)
    assert (model.prediction, model.schedule.num_train_steps, model.num_classes) == ("x0", 1, 0)
    assert [row["learning_rate"] for row in run.read_metrics()] == pytest.approx([1e-4] * STEPS)


@pytest.mark.parametrize(
    ("part", "figure", "parameters"),
    [("1.1", "architecture", 1_975_361), ("2.1", "architecture", 1_996_417),
     ("2.4", "architecture", 2_019_201), ("1.2", "noising", None)],
)  # fmt: skip
def test_parts_that_only_show_something_train_nothing(tmp_path, images, part, figure, parameters):
    run, finished, said = train(
        tmp_path / "run", settings.resolve({"part": part, "width": 64}), images
    )
    record = run.read()
    assert finished and record["status"] == "finished" and not run.model.exists()
    assert [path.stem for path in run.figures.iterdir()] == [figure]
    assert record["figures"][0]["part"] == part
    assert record.get("parameters") == parameters
    if parameters:
        assert any("enter_conv1" in line for line in said), "no summary"


def test_time_advice_names_a_width_that_takes_minutes_where_the_run_takes_hours():
    line = callbacks.time_advice(6.0, 20 * 469, 0, 128, False)
    assert "15.6 h" in line and "--width 16" in line
    assert "--width" not in callbacks.time_advice(6.0, 20 * 469, 0, 128, True)
    assert "--width" not in callbacks.time_advice(0.1, 469, 0, 64, False)
    assert "47 s" in callbacks.time_advice(0.1, 469, 0, 64, False)
    assert "57 s" in callbacks.time_advice(0.1, 469, 100, 64, False)


def test_the_time_of_figures_counts_every_call_of_the_network():
    # samples at epochs 1, 5 and 7 and the animation, with two branches; guidance 0 with one, 5 and 10 with two
    assert illustrate.evaluations(ask("2.5").course, 7) == 300 * (2 * (3 * 40 + 20) + 5 * 20)
    assert illustrate.evaluations(ask("2.2", edition="flow").course, 1) == 50 * (40 + 20)
    assert illustrate.evaluations(ask("1.2.1").course, 5) == 0
