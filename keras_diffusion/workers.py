"""Several machines that train as one, under `tf.distribute.MultiWorkerMirroredStrategy`: each runs the same program, and each has a part of every batch.

Keras 3's own `fit` fails there (keras-team/keras#20585), so that `fit` here is a loop of our own. A worker that is lost takes the step under
way with it: the others then start themselves again, go on from the last checkpoint, and wait for it.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass

from keras_diffusion.errors import UserError, is_integer, shown
from keras_diffusion.runs import Run

VARIABLE = "TF_CONFIG"
SECONDS = 1.0  # from one look at the others to the next
LOOKS = 60  # for a mark that a slow file system may not show yet
LOOKS_WITHOUT = 3  # in a row, at a mark that has gone
MOST_RESTARTS = 10  # in a row, without a new checkpoint
_RESTARTS = "KERAS_DIFFUSION_RESTARTS"  # of the environment: the newest checkpoint, and how often that was begun from
_EXAMPLE = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'


class Lost(UserError):
    """Another worker doesn't answer, or stands elsewhere: what there is to do is to begin again from the last checkpoint."""


@dataclass(frozen=True)
class Workers:
    """Which of the workers this process is.

    Attributes:
        index: its number; 0 is the chief, who alone writes the run's folder.
        count: how many there are.
    """

    index: int
    count: int

    @property
    def is_chief(self):
        """Whether this is the one that writes."""
        return self.index == 0


def of_environment():
    """Which worker this process is, as TF_CONFIG says.

    Raises:
        UserError: where it says nothing, or no worker.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        told = json.loads(text)
        hosts, task = told["cluster"]["worker"], told["task"]
        good = all(isinstance(host, str) and ":" in host for host in hosts)
        index = task["index"]
        good = good and task["type"] == "worker" and is_integer(index) and 0 <= index < len(hosts)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise UserError(f"--workers: expected {VARIABLE} like {_EXAMPLE}, got {shown(text)}")
    return Workers(int(index), len(hosts))


def strategy():
    """The strategy of all workers; loads TensorFlow, which must have done nothing before, and waits for the others.

    Raises:
        Lost: where one ends meanwhile.
        UserError: where they don't come together.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of each shape that a function is traced for
    print(f"waiting for all {of_environment().count} workers", flush=True)
    try:
        with telling_of_loss(), _killed_by_ctrl_c():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"--workers: expected all workers of {VARIABLE} to answer, got: {first}"
        ) from None


@contextlib.contextmanager
def _killed_by_ctrl_c():
    """Inside, Ctrl-C ends the process at once: Python's own way to end it waits for TensorFlow, which waits for others."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Copy(Run):
    """A worker's own copy of the folder that the chief writes.

    Args:
        folder: path.
        of: the chief's `runs.Run`, in a file system that all workers see.
    """

    def __init__(self, folder, of):
        super().__init__(folder)
        self.of = of

    def fetch(self):
        """Takes what is there now: run.json, the losses, and what training goes on from."""
        for path in self.of.folder.glob("*.*"):
            if path.is_file() and not path.name.startswith("."):
                shutil.copy(path, self.folder)
        for path in self.of.checkpoint_files():
            shutil.copy(path, self.checkpoints)


class Watch:
    """Sees what TensorFlow doesn't: another worker that began anew while nobody waited for it, and a chief that is done.

    Every worker leaves a mark beside the checkpoints as it begins, and takes it away as it ends, unless it is killed or begins
    anew. When one changes that was there as all met, this process begins anew too, whatever it waits for, until it leaves
    the context that this is.

    Args:
        workers: `Workers`.
        run: the chief's `runs.Run`.
        own: the folder that goes with this process, or None.

    Raises:
        UserError: where the mark can't be left.
    """

    def __init__(self, workers, run, own=None):
        self.workers, self.run, self.own = workers, run, own
        self._began = _written(run)
        self._met: list[str] = []
        self._left, self._deciding = threading.Event(), threading.RLock()
        self._name = f"{uuid.uuid4()}\n"
        self._leave_mark()
        threading.Thread(target=self._look, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        with self._deciding:  # perhaps it is just beginning anew
            self._left.set()
        if kind is None or not issubclass(kind, Lost):
            self._take_mark()

    def met(self):
        """All are here, with the marks that they have now.

        Raises:
            UserError: where a mark isn't seen.
        """
        for look in range(LOOKS):
            if look:
                time.sleep(SECONDS)
            if _text(self._mark(self.workers.index)) != self._name:
                self._leave_mark()  # the folder was removed, by a chief that was refused, say
            marks = self._marks()
            if all(marks):
                break
        else:
            raise UserError(
                f"--out: expected a folder that all workers see, got {self.run.folder}, which worker {marks.index('')} doesn't write to"
            )
        self._met = marks

    def again(self, lost):
        """Starts this program anew, as it was begun, or, where that has written anything, to go on from the last checkpoint; doesn't return.

        Args:
            lost: `Lost`, why.

        Raises:
            UserError: where that was done `MOST_RESTARTS` times, one after another, without a new checkpoint.
        """
        with self._deciding:
            self._again(lost)

    def _again(self, lost):
        found = self.run.checkpoint_files()
        newest = found[-1].name if found else "none"
        before, _, times = os.environ.get(_RESTARTS, "").partition(" ")
        count = 1 + (int(times) if before == newest and times.isdecimal() else 0)
        if count > MOST_RESTARTS:
            raise UserError(
                f"--workers: expected a new checkpoint in {MOST_RESTARTS} restarts, got none ({lost}); look at the other workers"
            )
        os.environ[_RESTARTS] = f"{newest} {count}"
        words = self._words(sys.orig_argv[1:])
        _say(f"{lost}; starting again from the last checkpoint")
        os.execv(sys.executable, [sys.executable, *words])

    def _words(self, words):
        """A command line that goes on with what this one began, or, where that has written nothing yet, begins it."""
        begins = "--force" in words and _written(self.run) == self._began
        if begins or not self.run.was_begun():
            return words
        return [word for word in words if word not in ("--force", "--resume")] + ["--resume"]

    def wait_for_the_chief(self, own):
        """Returns when the chief has ended.

        Args:
            own: this worker's `Copy` of the run, where training ended.

        Raises:
            UserError: where the chief didn't finish what this worker did.
        """
        finished, without = _status(own) == "finished", 0
        if finished and _status(self.run) != "finished":
            _say("waiting for the chief, which draws the last figures")
        while _status(self.run) != "finished" and without < LOOKS_WITHOUT:
            time.sleep(SECONDS)
            without = 0 if _text(self._mark(0)) else without + 1
        if finished and _status(self.run) != "finished":
            raise UserError(
                "--workers: expected a chief that finishes the run, got one that ended before; start all workers again, with --resume"
            )

    def _leave_mark(self):
        try:
            self.run.checkpoints.mkdir(parents=True, exist_ok=True)
            self._mark(self.workers.index).write_text(self._name)
        except OSError as error:
            raise self.run.unwritable(error) from None

    def _take_mark(self):
        with contextlib.suppress(OSError):
            self._mark(self.workers.index).unlink()

    def _mark(self, index):
        return self.run.checkpoints / f".worker-{index}"

    def _marks(self):
        return [_text(self._mark(k)) for k in range(self.workers.count)]

    def _look(self):
        while not self._left.wait(SECONDS):
            with self._deciding:
                if self._left.is_set():
                    return
                if self._met:
                    if self._another_began():
                        self._begin_anew()
                elif not self.workers.is_chief and self._is_over():
                    _say("the run is finished")
                    self._exit(0)

    def _another_began(self):
        """Whether a mark has changed; one that can't be read just now hasn't."""
        return any(
            now not in ("", then) for now, then in zip(self._marks(), self._met, strict=True)
        )

    def _is_over(self):
        """Whether the chief has finished what this process waits to take part in."""
        return _written(self.run) != self._began and _status(self.run) == "finished"

    def _clean_up(self):
        if self.own is not None:
            shutil.rmtree(self.own, ignore_errors=True)

    def _exit(self, status):
        """Ends the process, whatever its main thread waits for."""
        self._clean_up()
        self._take_mark()
        os._exit(status)

    def _begin_anew(self):
        self._clean_up()
        try:
            self.again(Lost("a worker has begun anew"))
        except Exception as error:  # else the thread alone would end
            _say(error, file=sys.stderr)
            self._exit(2)


def _say(text, **where):
    """Prints a line, if there is anybody to read it."""
    with contextlib.suppress(OSError):
        print(text, flush=True, **where)


def _written(run):
    """When run.json was written; None where there is none."""
    try:
        return os.stat(run.record_file).st_mtime_ns
    except OSError:
        return None


def _status(run):
    """A run's; None where it can't be read just now."""
    try:
        return run.read()["status"]
    except UserError:
        return None


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def folder(workers, run):
    """The folder that this worker trains in: the run's for the chief, a `Copy`, empty as yet, for the others, which goes when they end.

    What fails because another worker is lost begins anew.

    Args:
        workers: `Workers`, or None: this process trains alone.
        run: `runs.Run`.

    Yields:
        (`runs.Run`, `Watch`, or None for a process that trains alone).
    """
    watch = None
    try:
        with contextlib.ExitStack() as stack:
            if workers is None or workers.is_chief:
                run.create()
                stack.enter_context(run.held())
                own, temporary = run, None
            else:
                temporary = stack.enter_context(tempfile.TemporaryDirectory())
                own = Copy(pathlib.Path(temporary) / "run", run)
                own.create()
            if workers is not None:
                watch = stack.enter_context(Watch(workers, run, temporary))
            try:
                yield own, watch
            except Lost:
                raise
            except UserError:  # perhaps refused before anything was done
                own.remove_if_empty()
                raise
    except Lost as lost:
        if watch is None:
            raise
        watch.again(lost)


@contextlib.contextmanager
def together(strategy, run, watch):
    """Inside, models are built and trained under a strategy; if it is of workers, all begin from the same files, and end after the chief.

    Args:
        strategy: of `tf.distribute`.
        run, watch: as `folder` gives them.

    Raises:
        Lost: as `telling_of_loss`.
        UserError: as `Watch.met` and `Watch.wait_for_the_chief`.
    """
    if watch is None:
        with strategy.scope():
            yield
        return
    with telling_of_loss():
        # All have met, and the chief writes nothing before they meet once more.
        if isinstance(run, Copy):
            run.fetch()
        meet(strategy)
        watch.met()
        with strategy.scope():
            yield
    if isinstance(run, Copy):
        watch.wait_for_the_chief(run)


def begun_anew():
    """Whether this process is one that a worker started in its own place."""
    return bool(os.environ.get(_RESTARTS))


def is_of_workers(strategy):
    """Whether a strategy is of workers, be it of one."""
    return hasattr(strategy.extended, "_num_workers")


@contextlib.contextmanager
def telling_of_loss():
    """Inside, an operation that fails because another worker is gone raises `Lost`: making a variable is one too."""
    import tensorflow as tf

    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    try:
        yield
    except gone as error:
        raise Lost(f"a worker is lost ({type(error).__name__})") from None


def _total(strategy):
    """A function: the sum of a scalar over all replicas of all workers."""
    import tensorflow as tf

    @tf.function
    def total(value):
        return strategy.reduce("SUM", strategy.run(tf.identity, args=(value,)), axis=None)

    return total


def meet(strategy):
    """Waits until every worker has come here."""
    import tensorflow as tf

    int(_total(strategy)(tf.constant(1)))


def fit(model, batches, *, initial_epoch, epochs, steps_per_epoch, callbacks):
    """What `model.fit` does, by a loop of our own: the arguments are its.

    A wish of one worker to stop (`model.stop_training`) is every worker's.

    Raises:
        Lost: where another worker has come from another step. What else fails where one is gone: `telling_of_loss`.
    """
    import keras
    import tensorflow as tf

    strategy = model.distribute_strategy
    model.build_optimizer()
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA

    @tf.function
    def step(batch):
        strategy.run(model.train_step, args=(batch,))

    total = _total(strategy)
    here = tf.cast(model.step.value, tf.int64)
    count = strategy.num_replicas_in_sync
    if int(total(here)) != count * int(here) or int(total(here**2)) != count * int(here) ** 2:
        raise Lost(f"another worker is at another step than {int(here)}")
    parts = iter(strategy.experimental_distribute_dataset(batches.with_options(options)))
    chain = keras.callbacks.CallbackList(callbacks, model=model)
    model.stop_training = False
    chain.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        chain.on_epoch_begin(epoch)
        for k in range(steps_per_epoch):
            chain.on_train_batch_begin(k)
            step(next(parts))
            chain.on_train_batch_end(k)
            model.stop_training = bool(total(tf.constant(model.stop_training, tf.int64)))
            if model.stop_training:
                break
        chain.on_epoch_end(epoch, {"loss": float(model.loss_tracker.result())})
        if model.stop_training:
            break
    chain.on_train_end()
