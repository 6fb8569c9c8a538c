"""Several machines that train as one, under `tf.distribute.MultiWorkerMirroredStrategy`: each runs the same program, and each has a part of every batch.

Keras 3's own `fit` fails there (keras-team/keras#20585), so that `fit` here is a loop of our own. A worker that is lost takes the step under
way with it: the others then start themselves again, go on from the last checkpoint, and wait for it.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from dataclasses import dataclass

from keras_diffusion.errors import UserError, is_integer, shown
from keras_diffusion.runs import Run

VARIABLE = "TF_CONFIG"
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
        UserError: where they don't come together.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of each shape that a function is traced for
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"--workers: expected all workers of {VARIABLE} to answer, got: {first}"
        ) from None


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


@contextlib.contextmanager
def folder(workers, run):
    """The folder that this worker trains in: the run's for the chief, a `Copy`, empty as yet, for the others, which goes when they end.

    Args:
        workers: `Workers`, or None: this process trains alone.
        run: `runs.Run`.
    """
    if workers is None or workers.is_chief:
        run.create()
        with run.held():
            yield run
        return
    with tempfile.TemporaryDirectory() as own:
        copy = Copy(pathlib.Path(own) / "run", run)
        copy.create()
        yield copy


@contextlib.contextmanager
def together(strategy, run):
    """Inside, models are built and trained under a strategy; if it is of workers, from the same files, and all end when the chief has written its last.

    Args:
        strategy: of `tf.distribute`.
        run: as `folder` gives it.

    Raises:
        Lost: as `telling_of_loss`.
    """
    if not is_of_workers(strategy):
        with strategy.scope():
            yield
        return
    copies = isinstance(run, Copy)
    with telling_of_loss():
        if copies:  # all have met, and the chief writes nothing before they meet once more
            run.fetch()
        meet(strategy)
        with strategy.scope():
            yield
    # The others wait for the chief, to begin again with it if it is lost; the chief has all that it wants.
    with contextlib.nullcontext() if copies else contextlib.suppress(Lost), telling_of_loss():
        meet(strategy)


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
        said = str(error).splitlines()[0][:200]
        raise Lost(f"a worker is lost ({type(error).__name__}: {said})") from None


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
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
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


def again(lost, run):
    """Starts this program anew, to go on from the last checkpoint; doesn't return.

    Args:
        lost: `Lost`, why.
        run: `runs.Run`, the chief's.

    Raises:
        UserError: where that was done `MOST_RESTARTS` times, one after another, without a new checkpoint.
    """
    newest = run.checkpoint_files()[-1].name if run.checkpoint_files() else "none"
    before, _, times = os.environ.get(_RESTARTS, "").partition(" ")
    count = 1 + (int(times) if before == newest and times.isdecimal() else 0)
    if count > MOST_RESTARTS:
        raise UserError(
            f"--workers: expected a new checkpoint in {MOST_RESTARTS} restarts, got none ({lost}); look at the other workers"
        )
    os.environ[_RESTARTS] = f"{newest} {count}"
    print(f"{lost}; starting again from the last checkpoint", flush=True)
    words = [word for word in sys.orig_argv[1:] if word not in ("--force", "--resume")]
    os.execv(sys.executable, [sys.executable, *words, "--resume"])
