"""One session of a run: `model.fit` from the step where the run stands to the end of its last epoch."""

import numpy as np
import tensorflow as tf

from keras_diffusion import callbacks, illustrate, pipeline, rates, runs, workers


class Stopped(Exception):
    """Somebody wishes training to end while figures are drawn."""


class Session:
    """Trains a run; writes its metrics and checkpoints.

    Args:
        model: `DiffusionModel`, compiled; its `step` says where the run stands.
        data: `data.ImageData`.
        run: `runs.Run`, run.json written.
        epochs, batch_size, seed: of the training.
        learning_rate_at: function of a step, counted from 0.
        width: D, of what is said of the time that it takes; None where it can't be chosen.
        every: dict of arguments of `callbacks.Checkpoints`: how often one is written.
        recover: how often at most a run that breaks down goes back to its last checkpoint, at half the rate.
    """

    def __init__(
        self,
        model,
        data,
        run,
        *,
        epochs,
        batch_size,
        seed,
        learning_rate_at,
        width,
        every,
        recover=0,
    ):
        self.model, self.data, self.run = model, data, run
        self.recover = recover
        self.epochs, self.seed, self.width, self.every = epochs, seed, width, every
        self.whole_batch = batch_size
        self.learning_rate_at = learning_rate_at
        self.num_images = len(data.x_train)
        self.steps_per_epoch = pipeline.steps_per_epoch(self.num_images, batch_size)
        self.num_steps = epochs * self.steps_per_epoch

    @property
    def step(self):
        """Steps done."""
        return int(self.model.step.numpy())

    def batch_size(self, step):
        """Images in the batch of a step, counted from 0: an epoch's last batch is what is left."""
        rest = self.num_images - step % self.steps_per_epoch * self.whole_batch
        return min(rest, self.whole_batch)

    def images_before(self, step):
        """Images in all the batches before a step."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.num_images + steps * self.whole_batch

    def train(self):
        """Trains to the end, or until Ctrl-C; whether it got there.

        Raises:
            NotFinite: where training breaks down, more often than it may recover or before its first checkpoint.
        """
        try:
            return self._go()
        except callbacks.NotFinite as fault:
            if not self.recover or not self.run.checkpoint_files():
                raise
            self.recover -= 1
            self._go_back(fault)
        return self.train()

    def _go_back(self, fault):
        """To the last checkpoint, at half the rate from there on."""
        self.model = runs.last_model(self.run, print)
        rates.lower(self.model, 0.5)
        self.run.save_checkpoint(self.model, self.step)
        self.run.cut_metrics(self.step)
        went = {"fault": str(fault).split(";")[0], "step": self.step}
        went["rate_factor"] = rates.factor_of(self.model)
        self.run.update(recoveries=[*self.run.read().get("recoveries", []), went])
        print(
            f"{went['fault']}; back to step {self.step}, at {went['rate_factor']:g} times the rate"
        )

    def _go(self):
        """Trains from the step where the run stands; whether it got to the end."""
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            self.model.jit_compile = False  # its checkpoint may be of one device
        factor = rates.factor_of(self.model)
        metrics = callbacks.MetricsCSV(
            self.run,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate_at=lambda step: factor * self.learning_rate_at(step),
            batch_size_at=self.batch_size,
        )
        progress = callbacks.Progress(
            total_images=self.epochs * self.num_images,
            start=self.images_before(self.step),
            metrics=metrics,
        )
        checkpoints = callbacks.Checkpoints(
            self.run, steps_per_epoch=self.steps_per_epoch, **self.every
        )
        stop = self.stop = callbacks.CleanStop()
        say = progress.bar.write
        finish = callbacks.AfterEpochs(
            lambda epoch: self.finish_epoch(epoch, say), steps_per_epoch=self.steps_per_epoch
        )
        try:
            self.begin(say)
            self._fit(
                [
                    metrics,
                    callbacks.FiniteLoss(metrics),  # before anything is saved
                    progress,
                    self._estimate(say),
                    checkpoints,
                    *self.watching(say),
                    finish,
                    stop,
                ]
            )
            if self.step < self.num_steps:
                checkpoints.save()
        except Stopped:
            return False
        finally:
            stop.restore()
            progress.close()
            metrics.close()
        return self.step >= self.num_steps

    def begin(self, say):
        """What there is to do before the first step."""

    def watching(self, say):
        """More callbacks."""
        return []

    def drawing(self):
        """How long the figures take, in steps."""
        return 0

    def finish_epoch(self, epoch, say):
        """Says the loss of an epoch, counted from 1."""
        losses = [row["loss"] for row in self.run.read_metrics() if row["epoch"] == epoch]
        last = losses[-100:]
        say(
            f"epoch {epoch}: mean loss {np.mean(losses):.4g}, of its last {len(last)} steps {np.mean(last):.4g}"
        )

    def _estimate(self, say):
        return callbacks.TimeEstimate(
            steps=self.num_steps - self.step,
            drawing=self.drawing(),
            width=self.width,
            has_gpu=bool(tf.config.list_physical_devices("GPU")),
            say=say,
        )

    def _fit(self, chain):
        """The rest of an epoch that was begun, then whole epochs."""
        epoch, begun = divmod(self.step, self.steps_per_epoch)
        if begun:
            self._fit_epochs(epoch, epoch + 1, self.steps_per_epoch - begun, chain)
            epoch += 1
            if self.model.stop_training:
                return
        if epoch < self.epochs:
            self._fit_epochs(epoch, self.epochs, self.steps_per_epoch, chain)

    def _fit_epochs(self, first, last, steps, chain):
        batches = pipeline.training_batches(
            self.data.x_train,
            self.data.y_train,
            batch_size=self.whole_batch,
            seed=self.seed,
            start_step=self.step,
        )
        asked = {
            "initial_epoch": first,
            "epochs": last,
            "steps_per_epoch": steps,
            "callbacks": chain,
        }
        if workers.is_of_workers(self.model.distribute_strategy):
            workers.fit(self.model, batches, **asked)
        else:
            self.model.fit(batches, **asked, verbose=0)


class PartSession(Session):
    """A session of a part of the course: draws its figures.

    Args:
        asked: `settings.Settings`.
        data, run, model, every, recover: as for `Session`.
    """

    def __init__(self, asked, data, run, model, *, every, recover=0):
        self.recipe = asked.course
        super().__init__(
            model,
            data,
            run,
            epochs=asked.epochs,
            batch_size=asked.batch_size,
            seed=asked.seed,
            learning_rate_at=self._rate,
            width=asked.width,
            every=every,
            recover=recover,
        )

    def _rate(self, step):
        return self.recipe.learning_rate_at(
            step, steps_per_epoch=self.steps_per_epoch, epochs=self.epochs
        )

    def drawing(self):
        # A step is three passes over a batch: one forward, two backward.
        return illustrate.evaluations(self.recipe, self.epochs) / (3 * self.whole_batch)

    def begin(self, say):
        """Draws the figures of the epoch just done, where the run ended while it drew them."""
        epoch, begun = divmod(self.step, self.steps_per_epoch)
        # They are recorded together when the last of them is drawn.
        drawn = any(figure["epoch"] == epoch for figure in self.run.read()["figures"])
        if epoch and not begun and not drawn:
            self.finish_epoch(epoch, say)

    def watching(self, say):
        """Looks whether the class is listened to, on the first images of each class."""
        if not self.recipe.num_classes:
            return []
        labels = self.data.y_train
        chosen = np.concatenate([np.flatnonzero(labels == k)[:5] for k in np.unique(labels)])
        images = self.data.x_train[chosen].astype(np.float32) / 255
        return [callbacks.GuidanceDoctor(images, labels[chosen], num_steps=0, say=say)]

    def finish_epoch(self, epoch, say):
        """Says the epoch's loss and draws what the part owes at this epoch."""
        super().finish_epoch(epoch, say)
        if isinstance(self.run, workers.Copy):
            return  # the chief draws
        is_last = epoch == self.epochs
        names = list(self.recipe.figures) if is_last or epoch in self.recipe.figure_epochs else []
        names += [*self.recipe.final_figures, "loss"] if is_last else []
        if not names:
            return
        model = self.model
        scene = illustrate.Scene(model, model.network, self.data, self.recipe, self.run, epoch)
        drawn = illustrate.draw(scene, names, say=say, before_each=self._stop_if_asked)
        files = {entry["file"] for entry in drawn}
        before = [entry for entry in self.run.read()["figures"] if entry["file"] not in files]
        self.run.update(figures=before + drawn)

    def _stop_if_asked(self):
        """Leaves the figures of an epoch to `begin` of the next session; workers stop together, after a step."""
        if self.stop.asked and not workers.is_of_workers(self.model.distribute_strategy):
            raise Stopped
