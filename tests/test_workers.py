"""Training on several machines, each a process of its own: the same as on one, to rounding, whoever is killed or stopped."""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time

import keras
import numpy as np
import pytest
from test_replicas import ROOT

from keras_diffusion import workers
from keras_diffusion.errors import UserError
from keras_diffusion.runs import Run


def test_two_workers_train_as_one_in_a_loop_of_ones_own(python, tmp_path):
    """Two processes over loopback: Keras 3's `fit` fails there, our `train_step` doesn't."""
    program = ROOT / "tests" / "two_workers.py"
    ended(python.start(program, "alone.npz", 0, cwd=tmp_path))
    ports = free_ports(2)
    both = [
        python.start(program, f"{k}.npz", k, cwd=tmp_path, env=environment(k, ports))
        for k in range(2)
    ]
    for worker in both:
        ended(worker)
    alone, *workers = (np.load(tmp_path / f"{name}.npz") for name in ("alone", "0", "1"))
    assert float(alone["arr_1"]) == 1.0 and len(alone.files) > 20
    for worker in workers:
        assert int(worker["arr_0"]) == 2 and float(worker["arr_1"]) == 1.5
        for name in alone.files[2:]:
            np.testing.assert_allclose(worker[name], alone[name], rtol=2e-4, atol=2e-5)


ONE_STEP = (
    str(ROOT / "scripts" / "fit.py"), "--part", "1.2.1", "--data", "mnist-5k", "--limit", "30", "--width", "4",
    "--batch-size", "20", "--epochs", "6", "--checkpoint-steps", "3",
)  # fmt: skip


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(index, ports):
    """Of one of several workers."""
    hosts = [f"127.0.0.1:{port}" for port in ports]
    told = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
    return {**os.environ, "TF_CONFIG": json.dumps(told), "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def start_worker(python):
    """Starts one of two processes that train as one."""

    def start(index, ports, *words, cwd):
        words = (*ONE_STEP, "--workers", "--out", "run", *words)
        return python.start(*words, cwd=cwd, env=environment(index, ports))

    return start


def ended(worker):
    """What a process that ended well said."""
    out, error = worker.communicate()
    assert worker.returncode == 0, error[-3000:]
    return out


def weights_of(folder):
    return [w.numpy() for w in keras.models.load_model(Run(folder).model).weights]


@pytest.fixture(scope="module")
def undisturbed(python, start_worker, tmp_path_factory):
    """What two workers leave, which save at other times than each other, and one that trains alone."""
    folder = tmp_path_factory.mktemp("workers")
    ports, minutes = free_ports(2), ("0", "9")
    both = [
        start_worker(k, ports, "--checkpoint-minutes", minutes[k], cwd=folder) for k in range(2)
    ]
    said = [ended(worker) for worker in both]
    assert "run:     run" in said[0] and "run:" not in said[1]
    assert "drawing" in said[0] and "drawing" not in said[1]
    ended(python.start(*ONE_STEP, "--out", "alone", cwd=folder))
    return folder


def test_fit_on_two_workers(undisturbed):
    two, one = (Run(undisturbed / name) for name in ("run", "alone"))
    ours, theirs = ([row["loss"] for row in some.read_metrics()] for some in (one, two))
    assert len(ours) == 12
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    for ours, theirs in zip(*(weights_of(some.folder) for some in (one, two)), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
    assert two.read()["status"] == "finished" and len(two.checkpoint_files()) == 2


LAST_FIGURES = "figures/architecture.png"  # one of the last two


@pytest.mark.parametrize(
    "kills",
    [
        [
            (1, "run.json"),
            (0, "checkpoints/step-00000006.keras"),
            (0, LAST_FIGURES),
        ],
        [(1, LAST_FIGURES)],
    ],
    ids=["again and again", "at the end"],
)
def test_a_killed_worker_comes_back_and_nothing_is_lost(undisturbed, start_worker, tmp_path, kills):
    """The other one starts itself again and waits for it, if it isn't done; both go on from the last checkpoint."""
    ports = free_ports(2)
    both = [start_worker(k, ports, cwd=tmp_path) for k in range(2)]
    there = Run(tmp_path / "run")
    said = [[], []]
    for victim, at in kills:
        until = time.monotonic() + 300
        while not (there.folder / at).exists():
            assert time.monotonic() < until and both[0].poll() is None, both[0].written()
            time.sleep(0.02)
        both[victim].kill()
        said[victim].append(both[victim].communicate()[0])
        both[victim] = start_worker(victim, ports, "--resume", cwd=tmp_path)
    for k, worker in enumerate(both):
        said[k].append(ended(worker))
    if kills != [(1, LAST_FIGURES)]:  # the chief was perhaps done by then
        again = ["".join(texts).count("starting again") for texts in said]
        assert again[0] >= 1 and again[1] >= 2 and len(there.read()["sessions"]) >= 3, said
    assert there.read()["status"] == "finished"
    drawn, whole = (
        {path.name for path in some.figures.iterdir()} for some in (there, Run(undisturbed / "run"))
    )
    assert drawn == whole
    assert [row["step"] for row in there.read_metrics()] == list(range(1, 13))
    for ours, theirs in zip(weights_of(undisturbed / "run"), weights_of(there.folder), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_ctrl_c_at_one_worker_stops_all_and_nothing_is_lost(undisturbed, start_worker, tmp_path):
    ports = free_ports(2)
    both = [start_worker(k, ports, cwd=tmp_path) for k in range(2)]
    there = Run(tmp_path / "run")
    until = time.monotonic() + 300
    while not there.checkpoint_files():
        assert time.monotonic() < until and both[0].poll() is None, both[0].written()
        time.sleep(0.02)
    both[1].send_signal(signal.SIGINT)
    said = [worker.communicate(300) for worker in both]
    assert [worker.returncode for worker in both] == [130, 130], said
    assert there.read()["status"] == "interrupted" and there.read()["steps"] < 12
    both = [start_worker(k, ports, "--resume", cwd=tmp_path) for k in range(2)]
    for worker in both:
        ended(worker)
    for ours, theirs in zip(weights_of(undisturbed / "run"), weights_of(there.folder), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_ctrl_c_ends_a_worker_that_waits_for_the_others(start_worker, tmp_path):
    alone = start_worker(0, free_ports(2), cwd=tmp_path)
    until = time.monotonic() + 60
    while alone.written()[0] != "waiting for all 2 workers\n":
        assert time.monotonic() < until and alone.poll() is None, alone.written()
        time.sleep(0.02)
    while alone.poll() is None:  # the line comes a moment before
        assert time.monotonic() < until
        alone.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert alone.returncode in (-signal.SIGINT, 130)


def test_restarts_that_bring_nothing_come_to_an_end(tmp_path, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(os, "execv", lambda program, words: begun.append(words))
    monkeypatch.setattr(sys, "orig_argv", ["python", "fit.py", "--force", "--part", "2.5"])
    monkeypatch.setenv("KERAS_DIFFUSION_RESTARTS", "")
    there = Run(tmp_path / "run")
    watch = workers.Watch(workers.Workers(0, 2), there)
    lost = workers.Lost("a worker is lost")
    for _ in range(workers.MOST_RESTARTS):
        watch.again(lost)
    with pytest.raises(UserError, match="a new checkpoint in 10 restarts, got none .a worker is"):
        watch.again(lost)
    # Nothing was written yet, so that it replaces what is there.
    assert begun == [[sys.executable, "fit.py", "--force", "--part", "2.5"]] * 10
    there.checkpoint_at(3).touch()
    there.write({"status": "running"})
    watch.again(lost)
    assert begun[10:] == [[sys.executable, "fit.py", "--part", "2.5", "--resume"]]
    assert "starting again" in capsys.readouterr().out


def test_a_restart_goes_on_whatever_is_there(tmp_path, monkeypatch):
    """The chief may write run.json at any moment, so that a beginning that would be refused then isn't tried."""
    begun = []
    monkeypatch.setattr(os, "execv", lambda program, words: begun.append(words[1:]))
    monkeypatch.setattr(sys, "orig_argv", ["python", "fit.py", "--part", "2.5"])
    monkeypatch.setenv("KERAS_DIFFUSION_RESTARTS", "")
    watch = workers.Watch(workers.Workers(1, 2), Run(tmp_path / "run"))
    watch.again(workers.Lost("a worker is lost"))
    # Somebody else's folder is none to go on in.
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    watch = workers.Watch(workers.Workers(1, 2), Run(tmp_path / "theirs"))
    watch.again(workers.Lost("a worker is lost"))
    assert begun == [["fit.py", "--part", "2.5", "--resume"], ["fit.py", "--part", "2.5"]]


ends_its_thread = pytest.mark.filterwarnings(  # what execv does, in a test
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@ends_its_thread
def test_a_worker_that_begins_anew_is_seen_by_the_others(tmp_path, monkeypatch):
    begun = queue.Queue()
    monkeypatch.setattr(os, "execv", lambda program, words: (begun.put(words), sys.exit()))
    monkeypatch.setattr(workers, "SECONDS", 0.01)
    monkeypatch.setenv("KERAS_DIFFUSION_RESTARTS", "")
    there = Run(tmp_path / "run")
    own = tmp_path / "own"
    own.mkdir()
    chief = workers.Watch(workers.Workers(0, 2), there)
    other = workers.Watch(workers.Workers(1, 2), there, own)
    chief.met(), other.met()
    time.sleep(0.1)
    assert begun.empty()
    workers.Watch(workers.Workers(0, 2), there)  # waits for the others: not begun anew itself
    for _ in range(2):  # the earlier chief, which here isn't dead, and the other
        begun.get(timeout=10)
    time.sleep(0.1)
    assert begun.empty() and not own.exists()


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two watches that have met; whatever begins anew is put into the queue."""
    begun = queue.Queue()
    monkeypatch.setattr(os, "execv", lambda program, words: (begun.put(words), sys.exit()))
    monkeypatch.setattr(workers, "SECONDS", 0.01)
    monkeypatch.setenv("KERAS_DIFFUSION_RESTARTS", "")
    both = [workers.Watch(workers.Workers(k, 2), Run(tmp_path / "run")) for k in range(2)]
    for watch in both:
        watch.met()
    with contextlib.ExitStack() as stack:
        for watch in both:
            stack.enter_context(watch)
        yield *both, begun


@ends_its_thread
def test_what_is_done_is_not_begun_anew(pair):
    chief, other, begun = pair
    chief.__exit__(None, None, None)
    with workers.Watch(workers.Workers(1, 2), chief.run):
        begun.get(timeout=10)  # the other's own mark has changed
        time.sleep(0.1)
    assert begun.empty()


@ends_its_thread
def test_a_mark_that_cant_be_read_is_no_change(pair):
    chief, _, begun = pair
    mark = chief.run.checkpoints / ".worker-1"
    told = mark.read_text()
    mark.unlink()
    time.sleep(0.1)
    mark.write_text(told)
    time.sleep(0.1)
    assert begun.empty()
    mark.write_text("another\n")
    for _ in range(2):
        begun.get(timeout=10)


def test_workers_that_dont_see_each_other_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS", 0.001)
    watch = workers.Watch(workers.Workers(0, 2), Run(tmp_path / "run"))
    with pytest.raises(
        UserError, match="^--out: expected a folder that all workers see, .* worker 1"
    ):
        watch.met()
    shutil.rmtree(tmp_path / "run")  # by a chief that was refused, say
    with workers.Watch(workers.Workers(1, 2), Run(tmp_path / "run")) as other, watch:
        for one in (watch, other):
            one.met()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


RECORD = {"settings": {}, "data": {}, "figures": []}


@pytest.fixture
def own(pair, tmp_path):
    """The other worker's copy of the run."""
    copy = workers.Copy(tmp_path / "own", pair[0].run)
    copy.create()
    return copy


def test_workers_wait_for_a_chief_that_finishes(pair, own, capsys):
    chief, other, _ = pair
    own.write({**RECORD, "status": "finished"})
    chief.run.write({**RECORD, "status": "interrupted"})  # by the session before
    later = threading.Timer(0.2, lambda: chief.run.write({**RECORD, "status": "finished"}))
    later.start()
    other.wait_for_the_chief(own)
    assert chief.run.read()["status"] == "finished"
    other.wait_for_the_chief(own)
    said = "waiting for the chief, which draws the last figures"
    assert capsys.readouterr().out.splitlines() == [said]


def test_workers_whose_chief_ends_before_it_finishes_say_so(pair, own, capsys):
    chief, other, begun = pair
    own.write({**RECORD, "status": "interrupted"})
    chief.run.write({**RECORD, "status": "running"})
    threading.Timer(0.2, lambda: chief.__exit__(OSError, None, None)).start()
    other.wait_for_the_chief(own)  # all were stopped
    assert not capsys.readouterr().out
    own.update(status="finished")
    with pytest.raises(UserError, match="^--workers: expected a chief that finishes .*--resume$"):
        other.wait_for_the_chief(own)
    assert begun.empty()


def test_a_folder_that_a_worker_cant_write_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(
        UserError, match="^--out: expected a folder that can be written, got .*/run "
    ):
        workers.Watch(workers.Workers(1, 2), Run(tmp_path / "run"))


def test_a_worker_that_began_anew_in_vain_has_nothing_to_do(python, tmp_path, monkeypatch):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    there = Run(tmp_path / "run")
    there.create()
    there.write({"settings": {"epochs": 6}, "data": {}, "figures": [], "status": "finished"})
    words = (*ONE_STEP, "--workers", "--resume", "--out", "run")
    refused = python.run(*words, cwd=tmp_path)
    assert refused.returncode == 2 and "is finished; --force" in refused.stderr
    monkeypatch.setenv("KERAS_DIFFUSION_RESTARTS", "none 1")
    said = ended(python.start(*words, cwd=tmp_path))
    assert "the run in run is finished" in said


@pytest.mark.parametrize(
    ("config", "words", "expected"),
    [
        (None, (), "--workers: expected TF_CONFIG like {"),
        ("{", (), "--workers: expected TF_CONFIG like {"),
        ("[" * 100_000, (), "--workers: expected TF_CONFIG like {"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', (), "TF_CONFIG"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', (), "TF_CONFIG"),
        ('{"cluster": {"worker": [5]}, "task": {"type": "worker", "index": 0}}', (), "TF_CONFIG"),
        ("", ("--devices", "2"), "--devices: expected none with --workers, got 2"),
        ("", ("--recover", "2"), "--recover: expected none with --workers, got 2"),
    ],
)  # fmt: skip
def test_what_workers_cant_be_is_one_line(python, tmp_path, monkeypatch, config, words, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    refused = python.run(*ONE_STEP, "--workers", *words, "--out", "run", cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert expected in refused.stderr and not (tmp_path / "run").exists()
