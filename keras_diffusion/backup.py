"""What a plain `model.fit` that was killed goes on from."""

import keras

from keras_diffusion import runs
from keras_diffusion.callbacks import Checkpoints
from keras_diffusion.errors import UserError

_REST_IS_DONE = (
    "the rest of the epoch is done"  # why `Backup` stops an epoch; true, and nobody else's
)


class Backup(keras.callbacks.Callback):
    """Lets a plain `model.fit` that was killed go on, to the same weights bit for bit (on a CPU), as if it had never stopped.

    Saves the whole `DiffusionModel`, optimizer included, as `Checkpoints` does, and when `fit` begins puts back what is newest
    there: weights, averaged weights, optimizer and step. The first epoch then has the steps that were left of it. What it can't put
    back is where a dataset stood: start it at `backup.step`, as `training_batches` can.

    Args:
        folder: path, of this training and of one process; made where it isn't there. A finished training stays in it: the
            same `fit` then does nothing.
        minutes: most time between two files; one is written after each epoch too.
        steps: most steps between two, or None.
        say: function of a line: what it went on from, and files that are damaged.

    Attributes:
        step: how many steps are done, 0 at the beginning.

    Raises:
        UserError: where the files are another model's, or all are damaged, or a model that was trained before begins there, or
            another process trains there.

    Example:
        >>> backup = kd.Backup("backup")
        >>> batches = kd.training_batches(images, labels, batch_size=128, seed=0, start_step=backup.step)
        >>> model.fit(batches, epochs=20, steps_per_epoch=469, callbacks=[backup])
    """

    def __init__(self, folder, *, minutes=5.0, steps=None, say=print):
        super().__init__()
        self.run = runs.Run(folder, named="Backup")
        self.run.create()
        self._lock = self.run.lock()  # goes with this object, or the process
        self.run.sweep()
        self.minutes, self.steps, self.say = minutes, steps, say
        self.last = runs.last_model(self.run, say, advice="name another folder")
        self.step = 0 if self.last is None else int(self.last.step.numpy())
        self.rest = self.saves = None

    def on_train_begin(self, logs=None):
        a_step = self.params["steps"]
        if not a_step:
            raise UserError(
                "Backup: expected the number of steps in an epoch, got none; give fit steps_per_epoch"
            )
        self.saves = Checkpoints(
            self.run, steps_per_epoch=a_step, minutes=self.minutes, steps=self.steps
        )
        self.saves.set_model(self.model)
        if self.last is None:
            self._check_new()
            return
        _put_back(self.last, self.model)
        self.last = None
        epoch, begun = divmod(self.step, a_step)
        self.model._initial_epoch = epoch  # as Keras's own BackupAndRestore does
        self.rest = a_step - begun if begun else None
        self.say(f"going on from step {self.step}")

    def _check_new(self):
        """Epochs are counted in the model's steps, so that they begin at 0."""
        step = int(self.model.step.numpy())
        if step != self.step:
            raise UserError(
                f"Backup: expected a model that wasn't trained, got one of {step} steps; build it anew and set its weights"
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model._initial_epoch = None  # of this fit alone

    def on_train_batch_end(self, batch, logs=None):
        self.saves.on_train_batch_end(batch, logs)
        if self.rest is not None and batch + 1 >= self.rest and not self.model.stop_training:
            self.model.stop_training = _REST_IS_DONE

    def on_epoch_end(self, epoch, logs=None):
        self.rest = None
        if self.model.stop_training is _REST_IS_DONE:  # nobody has asked for more since
            self.model.stop_training = False

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None
        if int(self.model.step.numpy()) > self.step:
            self.saves.save()


def _put_back(saved, model):
    """Takes over the state of a model that is trained alike."""
    if _training(saved) != _training(model):
        raise _another()
    model.build_optimizer()
    theirs, ours = ([*some.weights, *some.optimizer.variables] for some in (saved, model))
    if [w.shape for w in theirs] != [w.shape for w in ours]:
        raise _another()
    for one, other in zip(theirs, ours, strict=True):
        other.assign(one)


def _training(model):
    """What decides how it is trained, besides the network and the rate."""
    config = {k: v for k, v in model.get_config().items() if k not in ("network", "name", "dtype")}
    return config, type(model), type(model.optimizer)


def _another():
    return UserError(
        "Backup: expected the model that was saved there, got another; name another folder"
    )
