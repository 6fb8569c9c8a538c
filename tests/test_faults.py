"""What happens to a run when something goes wrong: a kill at any moment, a loss that isn't a number, a second process."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import filelock
import keras
import numpy as np
import pytest
from test_fit import ask, assert_same_outcome, images, train, weights  # noqa: F401  (a fixture)

import keras_diffusion as kd
from keras_diffusion import callbacks, course
from keras_diffusion.errors import UserError
from keras_diffusion.runs import Run

ROOT = pathlib.Path(__file__).parents[1]
KILLS = int(os.environ.get("KERAS_DIFFUSION_KILLS", "3"))
RUN = (
    "--part", "1.2.1", "--data", "mnist-5k", "--limit", "1500", "--width", "4", "--batch-size", "20",
    "--epochs", "2", "--checkpoint-steps", "7",
)  # fmt: skip


@pytest.fixture(scope="module")
def start(python):
    """Starts fit.py."""
    program = ROOT / "scripts" / "fit.py"
    return lambda *words, cwd: python.start(program, *words, cwd=cwd)


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """What comes of `RUN`, and how many seconds it took."""
    folder, began = tmp_path_factory.mktemp("faults"), time.monotonic()
    finish(start(*RUN, "--out", "whole", cwd=folder))
    return Run(folder / "whole"), time.monotonic() - began


def finish(process):
    """What a process that ended well said."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def kill(begin, took):
    """Starts a process and kills it, at random moments from the first second to the last; how often before it was done.

    Set KERAS_DIFFUSION_KILLS for more of them.
    """
    rng = np.random.default_rng(int(time.time()))
    for survived in range(KILLS):
        process = begin()
        after = rng.uniform(0, took) * (1 if survived else 0.5)  # the first run was the slowest
        try:
            process.wait(after)
            return survived
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        print(f"killed after {after:.1f} s of {took:.1f}")
    return KILLS


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(start, undisturbed, tmp_path):
    whole, took = undisturbed

    def begin():
        resume = ["--resume"] if (tmp_path / "killed").is_dir() else []
        return start(*RUN, *resume, "--out", "killed", cwd=tmp_path)

    survived = kill(begin, took)
    killed = Run(tmp_path / "killed")
    if not (killed.exists() and killed.read()["status"] == "finished"):
        finish(begin())
    assert survived
    assert_same_outcome(killed, whole)
    left = {path.name for path in killed.folder.rglob("*.tmp*")}
    assert not left, left


def test_a_plain_fit_killed_again_and_again_ends_as_if_nothing_had_been(python, tmp_path):
    """The same, of a user's own program with `kd.Backup`."""

    def begin(*names):
        return python.start(ROOT / "tests" / "plain_fit.py", *names, cwd=tmp_path)

    began = time.monotonic()
    assert finish(begin("whole", "whole.keras")) == f"0 {list(range(12))}\n"
    survived = kill(lambda: begin("killed", "killed.keras"), time.monotonic() - began)
    finish(begin("killed", "killed.keras"))
    assert survived
    for ours, theirs in zip(
        *(weights(tmp_path / f"{name}.keras") for name in ("killed", "whole")), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Once more: it is finished, and nothing is trained.
    assert finish(begin("killed", "again.keras")).endswith("120 []\n")


def test_a_folder_that_another_process_trains_in_is_refused(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with filelock.FileLock(folder / ".lock"):
        process = start(*RUN, "--out", "run", cwd=tmp_path)
        _, err = process.communicate(120)
    assert process.returncode == 2 and len(err.splitlines()) == 1
    assert "no other process trains in, got run" in err
    assert not (folder / "run.json").exists()


def test_a_backup_that_another_process_writes_is_refused(tmp_path):
    code = f"import keras_diffusion as kd\nb = kd.Backup({str(tmp_path)!r})\nprint('held', flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout.readline() == b"held\n"
    (tmp_path / ".step.tmp").write_bytes(b"half of a file that the other one writes")
    with pytest.raises(UserError, match="Backup: expected a folder that no other process"):
        kd.Backup(tmp_path)
    assert (tmp_path / ".step.tmp").exists()
    process.kill()
    process.wait()
    kd.Backup(tmp_path)
    kd.Backup(tmp_path)  # as a notebook's cell that is run once more


def test_the_lock_goes_with_a_killed_process(tmp_path):
    run = Run(tmp_path)
    code = f"from keras_diffusion.runs import Run\nwith Run({str(tmp_path)!r}).held():\n print('held', flush=True)\n input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="no other process"), run.held():
        pass
    process.kill()
    process.wait()
    with run.held():
        pass


def test_a_loss_that_is_no_number_ends_the_run_and_says_so(tmp_path, images, monkeypatch):  # noqa: F811
    recipe_of = course.recipe_of
    monkeypatch.setattr(
        course,
        "recipe_of",
        lambda *a, **k: dataclasses.replace(recipe_of(*a, **k), learning_rate=1e30),
    )
    with pytest.raises(callbacks.NotFinite) as error:
        train(tmp_path, ask("2.5", edition="flow"), images, small=True)
    run = Run(tmp_path)
    record = run.read()
    assert "\n" not in str(error.value) and "expected a finite loss" in str(error.value)
    assert record["status"] == "interrupted" and record["fault"] == str(error.value)
    assert not np.isfinite(run.read_metrics()[-1]["loss"]) and not run.model.exists()


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, and a function that mounts it otherwise."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode

    if os.geteuid() or mount("size=600k"):
        pytest.skip("mounting takes root's rights")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(folder)], check=True)


def refused(process):
    """The one line of a program that ends with status 2; the progress bar's aside."""
    _, err = process.communicate()
    assert process.returncode == 2 and "Traceback" not in err, err
    return err.splitlines()[-1]


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    start, undisturbed, tmp_path, disk
):
    """There is room for one checkpoint, not for the second."""
    folder, remount = disk
    line = refused(start(*RUN, "--out", "disk/run", cwd=tmp_path))
    assert line == "fit.py: expected files to be read and written, got: No space left on device"
    run = Run(folder / "run")
    assert len(run.checkpoint_files()) == 1 and not list(run.folder.rglob("*.tmp*"))
    assert remount("size=60m") == 0
    finish(start(*RUN, "--out", "disk/run", "--resume", cwd=tmp_path))
    assert_same_outcome(run, undisturbed[0])


def test_a_read_only_folder_is_said(start, tmp_path, disk):
    folder, remount = disk
    assert remount("ro") == 0
    line = refused(start(*RUN, "--out", "disk/run", cwd=tmp_path))
    assert "--out: expected a folder that can be written, got disk/run" in line
    assert not list(folder.iterdir())


@pytest.fixture
def breaks_down(monkeypatch):
    """Steps at which the loss that callbacks read is NaN, each once: the run's weights are sound."""
    steps, read = [], callbacks.MetricsCSV.on_train_batch_end

    def broken(self, batch, logs=None):
        read(self, batch, logs)
        if int(self.model.step.numpy()) in steps:
            steps.remove(int(self.model.step.numpy()))
            self.loss = float("nan")

    monkeypatch.setattr(callbacks.MetricsCSV, "on_train_batch_end", broken)
    return steps


def test_a_run_that_goes_back_lowers_its_rate(tmp_path, images, breaks_down, capsys):  # noqa: F811
    asked, every = ask("2.5", edition="flow", epochs=2), {"steps": 2}
    train(tmp_path / "whole", asked, images, checkpoints=every, small=True)
    breaks_down += [3, 5]
    train(tmp_path / "broken", asked, images, checkpoints=every, recover=2, small=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "back to" in line]
    assert said == [
        "step 3: expected a finite loss, got nan; back to step 2, at 0.5 times the rate",
        "step 5: expected a finite loss, got nan; back to step 4, at 0.25 times the rate",
    ]
    broken, whole = (Run(tmp_path / name) for name in ("broken", "whole"))
    rates = [
        now["learning_rate"] / before["learning_rate"]
        for now, before in zip(broken.read_metrics(), whole.read_metrics(), strict=True)
    ]
    np.testing.assert_allclose(rates, [1, 1, 0.5, 0.5, 0.25, 0.25])
    record = broken.read()
    assert record["status"] == "finished"
    assert [(went["step"], went["rate_factor"]) for went in record["recoveries"]] == [
        (2, 0.5),
        (4, 0.25),
    ]
    # What is written is what the optimizer did, and what goes on with it.
    model = keras.models.load_model(broken.model)
    step = int(model.optimizer.iterations.numpy()) - 1
    model.optimizer.iterations.assign(step)
    np.testing.assert_allclose(
        float(model.optimizer.learning_rate), broken.read_metrics()[-1]["learning_rate"], rtol=1e-6
    )


def test_a_run_that_breaks_down_too_often_ends(tmp_path, images, breaks_down):  # noqa: F811
    breaks_down += [5, 6]
    asked, every = ask("2.5", edition="flow"), {"steps": 2}
    with pytest.raises(callbacks.NotFinite, match="step 6: expected a finite loss"):
        train(tmp_path, asked, images, checkpoints=every, recover=1, small=True)
    assert Run(tmp_path).read()["status"] == "interrupted"


def test_before_the_first_checkpoint_there_is_nothing_to_go_back_to(tmp_path, images, breaks_down):  # noqa: F811
    breaks_down += [1]
    asked, every = ask("2.5", edition="flow"), {"steps": 2}
    with pytest.raises(callbacks.NotFinite, match="step 1: expected a finite loss"):
        train(tmp_path, asked, images, checkpoints=every, recover=9, small=True)


def test_weights_that_are_no_numbers_push_no_checkpoint_out(tmp_path):
    run = Run(tmp_path)
    run.create()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.step = keras.Variable(7, dtype="int64", trainable=False)
    checkpoints = callbacks.Checkpoints(run, steps_per_epoch=10)
    checkpoints.set_model(model)
    checkpoints.save()
    model.step.assign(8)
    checkpoints.save()
    kept = run.checkpoint_files()
    model.layers[0].kernel.assign([[np.nan], [0.0]])
    model.step.assign(9)
    with pytest.raises(callbacks.NotFinite, match="step 9: expected a finite weight"):
        checkpoints.save()
    assert run.checkpoint_files() == kept and len(kept) == 2


def test_a_checkpoint_every_few_steps(tmp_path):
    run, saved = Run(tmp_path), []
    run.create()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.step = keras.Variable(0, dtype="int64", trainable=False)
    checkpoints = callbacks.Checkpoints(run, steps_per_epoch=10, steps=4)
    checkpoints.set_model(model)
    for step in range(1, 13):
        model.step.assign(step)
        checkpoints.on_train_batch_end(step)
        saved = sorted({*saved, *(path.name for path in run.checkpoint_files())})
    assert saved == [f"step-{step:08d}.keras" for step in (4, 8, 10, 12)]


@pytest.mark.parametrize(("holds", "begun"), [
    ([], True), (["figures/", "checkpoints/", ".lock"], True), (["run.json"], True),
    (["checkpoints/step-00000007.keras"], False), (["letter.txt"], False), (None, False),
])  # fmt: skip
def test_what_resume_takes_for_a_run(tmp_path, holds, begun):
    """A folder that a kill left before run.json; not somebody's own, nor one that lost its run.json."""
    run = Run(tmp_path / "run")
    if holds is not None:
        run.folder.mkdir()
    for name in holds or []:
        path = run.folder / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    assert run.was_begun() == begun
