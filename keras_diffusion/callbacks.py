"""Callbacks for `model.fit` on a `DiffusionModel`: metrics, checkpoints, progress, time, a clean stop."""

import csv
import dataclasses
import os
import signal
import statistics
import time

import keras
import numpy as np

from keras_diffusion import runs
from keras_diffusion.bars import bar
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import doctor
from keras_diffusion.text import duration


class MetricsCSV(keras.callbacks.Callback):
    """Appends one row a step to metrics.csv: epoch, step, the batch's own loss, learning rate, images per second.

    Args:
        run: `runs.Run`.
        steps_per_epoch: steps in an epoch.
        learning_rate_at: function of a step, counted from 0.
        batch_size_at: function of a step, counted from 0: the number of images in its batch.
    """

    def __init__(self, run, *, steps_per_epoch, learning_rate_at, batch_size_at):
        super().__init__()
        self.run, self.steps_per_epoch = run, steps_per_epoch
        self.learning_rate_at, self.batch_size_at = learning_rate_at, batch_size_at
        self.file = None

    def on_train_begin(self, logs=None):
        self.file = self.run.metrics.open("a", buffering=1, newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, runs.COLUMNS)

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        done = int(self.model.step.numpy())
        self.loss = float(self.model.batch_loss.numpy())
        seconds = time.perf_counter() - self.began
        row = {
            "epoch": (done - 1) // self.steps_per_epoch + 1,
            "step": done,
            "loss": self.loss,
            "learning_rate": self.learning_rate_at(done - 1),
            "images_per_second": self.batch_size_at(done - 1) / seconds,
        }
        self.writer.writerow(runs.format_metrics(row))

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Closes the file; Keras doesn't come to `on_train_end` where training fails."""
        if self.file is not None:
            self.file.close()


class NotFinite(UserError):
    """Training has broken down: there is nothing in the model that is worth keeping."""


class FiniteLoss(keras.callbacks.Callback):
    """Ends training at a loss that is NaN or infinite, before the model is saved.

    Args:
        metrics: `MetricsCSV`, which has read it.

    Raises:
        NotFinite: then.
    """

    def __init__(self, metrics):
        super().__init__()
        self.metrics = metrics

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(self.metrics.loss):
            raise _broken_down(self.model, "loss", self.metrics.loss)


def _broken_down(model, what, got):
    return NotFinite(
        f"step {int(model.step.numpy())}: expected a finite {what}, got {got}; the same steps again would end alike: start over with another seed or batch size; float32 is the safest precision"
    )


class Checkpoints(keras.callbacks.Callback):
    """Saves the whole model, optimizer included, after each epoch, every `minutes` and every `steps`; keeps the last two files.

    Args:
        run: `runs.Run`.
        steps_per_epoch: steps in an epoch.
        minutes: most time between two checkpoints.
        steps: most steps between two, or None.

    Raises:
        NotFinite: where a weight is NaN or infinite: what was saved before isn't pushed out by that.
    """

    def __init__(self, run, *, steps_per_epoch, minutes=5.0, steps=None):
        super().__init__()
        self.run, self.steps_per_epoch = run, steps_per_epoch
        self.minutes, self.steps = minutes, steps
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        done = int(self.model.step.numpy())
        late = time.monotonic() - self.saved_at > 60 * self.minutes
        due = self.steps is not None and done % self.steps == 0
        if late or due or done % self.steps_per_epoch == 0:
            self.save()

    def save(self):
        """Saves now."""
        optimizer = getattr(self.model, "optimizer", None)
        for weight in [*self.model.weights, *(optimizer.variables if optimizer else [])]:
            if not np.isfinite(weight.numpy()).all():
                raise _broken_down(self.model, f"weight {weight.path}", "NaN or infinity")
        self.run.save_checkpoint(self.model, int(self.model.step.numpy()))
        self.saved_at = time.monotonic()


class Progress(keras.callbacks.Callback):
    """A bar over the whole run: loss, images per second, time left; away from a terminal a line a minute.

    Args:
        total_images: images in the whole run.
        start: images done before.
        metrics: `MetricsCSV`, which measures.
    """

    def __init__(self, *, total_images, start, metrics):
        super().__init__()
        self.metrics, self.smooth, self.seen = metrics, 0.0, 0
        self.bar = bar(total_images, unit="images", done=start)

    def on_train_batch_end(self, batch, logs=None):
        loss = self.metrics.loss
        self.seen += 1  # the mean of all until there are fifty
        self.smooth += max(0.02, 1 / self.seen) * (loss - self.smooth)
        done = int(self.model.step.numpy())
        epoch = (done - 1) // self.metrics.steps_per_epoch + 1
        self.bar.set_postfix_str(f"epoch {epoch}, loss {self.smooth:.4f}", refresh=False)
        self.bar.update(self.metrics.batch_size_at(done - 1))

    def close(self):
        """Ends the bar."""
        self.bar.close()


class TimeEstimate(keras.callbacks.Callback):
    """After some steps, says once how long the run will take here, and which width would take minutes.

    Args:
        steps: steps still to do.
        drawing: time of drawing the figures, in steps.
        width: D; None where it can't be chosen.
        has_gpu: whether a GPU trains.
        say: function of a line.
        after: how many steps are timed; the first two, which compile, are not.
    """

    def __init__(self, *, steps, drawing, width, has_gpu, say, after=12):
        super().__init__()
        self.drawing = drawing
        self.steps, self.width, self.has_gpu, self.say, self.after = (
            steps,
            width,
            has_gpu,
            say,
            after,
        )
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if len(self.seconds) >= self.after:
            return
        self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) == self.after:
            a_step = statistics.median(self.seconds[2:])
            self.say(time_advice(a_step, self.steps, self.drawing, self.width, self.has_gpu))


def time_advice(seconds_per_step, steps, drawing, width, has_gpu):
    """The line that `TimeEstimate` says. The time of a step grows with about the 1.8th power of the width."""
    total = seconds_per_step * (steps + drawing)
    figures = ", and the figures" if drawing else ""
    line = f"{steps} steps of {seconds_per_step:.2f} s{figures}: about {duration(total)}"
    if width is None:
        return f"{line} on this machine"
    line += f" at width {width} on this machine"
    for smaller in (64, 48, 32, 24, 16):
        shorter = total * (smaller / width) ** 1.8
        if total > 3600 and not has_gpu and smaller < width and shorter < 1800:
            return f"{line}; --width {smaller} would take about {duration(shorter)}"
    return line


class CleanStop(keras.callbacks.Callback):
    """Ctrl-C or SIGTERM ends training after the step under way; a second one at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        super().__init__()
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def _ask(self, number, frame):
        self.asked = True
        self.restore()
        os.write(2, b"\nstopping after this step (or figure); once more stops at once\n")

    def restore(self):
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_batch_end(self, batch, logs=None):
        if self.asked:
            self.model.stop_training = True


class AfterEpochs(keras.callbacks.Callback):
    """Calls a function of the epoch, counted from 1, after whole epochs.

    Args:
        finish: the function.
        steps_per_epoch: steps in an epoch; an epoch that was stopped before its end doesn't count.
    """

    def __init__(self, finish, *, steps_per_epoch):
        super().__init__()
        self.finish, self.steps_per_epoch = finish, steps_per_epoch

    def on_epoch_end(self, epoch, logs=None):
        done = int(self.model.step.numpy())
        if done % self.steps_per_epoch == 0:
            self.finish(done // self.steps_per_epoch)


class GuidanceDoctor(keras.callbacks.Callback):
    """Watches a class-conditional `DiffusionModel` in training: says in words when its class is ignored, when guidance makes all images of a
    class alike, or when the loss sits at the plateau of a network that can't put out negative numbers.

    Looks at the network that samples, after each epoch, and changes nothing: no draw of training depends on it.

    Args:
        images: float32 [N, H, W, C] in [0, 1], real ones, two of each class or more; N of 50 is plenty.
        labels: int [N].
        judge: callable (images) -> (logits, features), as `sampling.onnx_classifier.Classifier`, or None: class accuracy isn't watched.
        guidance_scale: of the samples.
        num_steps: of the samples; 0 draws none.
        every: epochs from one look to the next.
        after: training steps before which nothing is said: a class is heard late.
        say: function of a line.

    Attributes:
        found: the last `evaluation.doctor.Examination`, None before the first.

    Example:
        >>> model.fit(images, labels, epochs=5, callbacks=[kd.GuidanceDoctor(images[:50], labels[:50])])
    """

    def __init__(
        self,
        images,
        labels,
        *,
        judge=None,
        guidance_scale=5.0,
        num_steps=5,
        every=1,
        after=1000,
        say=print,
    ):
        super().__init__()
        self.images, self.labels = np.asarray(images, np.float32), np.asarray(labels, np.int64)
        self.judge, self.guidance_scale, self.num_steps = judge, guidance_scale, num_steps
        self.every, self.after, self.say = every, after, say
        self.losses, self.found = [], None

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append((logs or {}).get("loss", float("nan")))
        if (epoch + 1) % self.every:
            return
        self.found = self.examine()
        if self.model.step.numpy() < self.after:
            return
        lines = doctor.warnings(self.found, scale=self.guidance_scale)
        stuck = None
        if self.model.min_snr is None and self.model.data_std is None:
            stuck = doctor.plateau(self.losses, self.found, self.model.prediction)
        for line in [*lines, *([stuck] if stuck else [])]:
            self.say(f"epoch {epoch + 1}: {line}")

    def examine(self):
        """An `evaluation.doctor.Examination` of the model as it is."""
        model = self.model
        found = doctor.examine(
            lambda x, t, label: model.denoise(x, t, label).numpy(),
            model.schedule,
            model.prediction,
            self.images,
            self.labels,
            null_label=model.num_classes,
        )
        if not self.num_steps:
            return found
        guided = model.sample(
            self.labels, num_steps=self.num_steps, guidance_scale=self.guidance_scale
        )
        accuracy = None
        if self.judge is not None:
            accuracy = float(np.mean(self.judge(guided)[0].argmax(axis=1) == self.labels))
        return dataclasses.replace(
            found,
            variety=doctor.variety(guided, self.images, self.labels),
            accuracy=accuracy,
        )
