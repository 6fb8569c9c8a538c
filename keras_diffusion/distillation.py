"""Distillation: a student that does in one call of the network what its guided teacher does in several."""

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import predictions
from keras_diffusion.errors import is_integer, is_number
from keras_diffusion.few_steps import FewSteps, at_rows, check_draws, sampling_copy
from keras_diffusion.sampling import guidance, samplers
from keras_diffusion.sampling.times import few_times


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Distillation(FewSteps):
    """Trains a student on the steps of its teacher; `fit` as for `DiffusionModel`, then `student`.

    The student's sampler is ddim without fresh noise, at `times` t_1 > ... > t_S, unguided: S calls of its network. A training
    step draws for each image x0 one of them, forms `xt = alpha*x0 + sigma*eps`, and lets the teacher go from t_i to
    t_{i+1} in `teacher_steps` steps of its own, guided. The student's target is the one estimate of x0 with which ddim
    goes there in one step:

        x_s = a*xt + b*x0*,  so  x0* = (x_s - a*xt)/b

    It is a mean of the teacher's estimates, so it lies in their range. The statistics of BatchNorm stay the teacher's:
    student and teacher are called as they sample. Every draw is a pure function of `seed` and the step's number.

    Args:
        network: the student's, as for `DiffusionModel`.
        schedule, prediction: of both.
        teacher: network with the same inputs and the same kind of output; isn't trained.
        times: float [S], falling from T.
        teacher_steps: steps of the teacher in one of the student's.
        guidance_scale, guidance_interval: of the teacher, as `DiffusionModel.sample` takes them.
        label_dropout: probability with which an image's class is hidden: there both learn to draw without.
        ema_decay, num_classes, seed: as for `DiffusionModel`.
        data_std: as for `DiffusionModel`; None weighs the error of x0 by max(SNR, 1), so that the first call counts.

    Example:
        >>> distillation = distill(model, num_steps=10, guidance_scale=1.5, guidance_interval=(0.35, 0.7))
        >>> distillation.compile(optimizer=keras.optimizers.Adam(5e-4))
        >>> distillation.fit(images, labels, batch_size=128, epochs=5)
        >>> distillation.student().sample([0, 1, 2])

    Reference: Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models"; Meng et al. 2023, "On
    Distillation of Guided Diffusion Models" (guidance).
    """

    partner = "teacher"

    def __init__(
        self,
        network,
        schedule,
        *,
        teacher,
        times,
        teacher_steps=3,
        guidance_scale=1.0,
        guidance_interval=None,
        **kwargs,
    ):
        _check(teacher, teacher_steps, guidance_scale)
        super().__init__(network, schedule, times=times, **kwargs)
        teacher.trainable = False
        self.teacher = teacher
        self.teacher_steps, self.guidance_scale = teacher_steps, guidance_scale
        self.guidance_interval = guidance_interval
        self.supports_jit = False  # the number of images that are called twice isn't fixed
        fine = _between(np.append(self.times, 0.0), teacher_steps, whole=not schedule.continuous)
        self._fine = samplers.plan(schedule, self.prediction, sampler="ddim", spacing=fine[:-1])
        self._guided = guidance.scale_now(
            guidance_scale, guidance.weights(self._fine, guidance_interval)
        )

    def _loss(self, network, x0, label, *, step, training):
        rows = self._rows(tf.shape(x0)[0], step)
        alpha, sigma = (at_rows(column, rows) for column in (self._plan.alpha, self._plan.sigma))
        eps = self._noise(x0, step)
        xt = alpha * x0 + sigma * eps
        target = self._target(xt, rows, label)
        t = tf.gather(tf.constant(self._plan.t / self._plan.num_train_steps, tf.float32), rows)
        out = self.denoise(xt, t, label, network=network)
        return tf.reduce_mean(self._weight(t) * tf.square(target - out))

    def _weight(self, t):
        if self.data_std is not None:
            return super()._weight(t)
        alpha, sigma = self._levels(t)
        return predictions.min_snr_weight(
            self.prediction, alpha, sigma, gamma=1.0, minimum=tf.maximum
        )

    def _rows(self, count, step):
        """Which of the student's calls each image is for: int32 [N], spread evenly."""
        u = self._spread(count, step)
        return tf.minimum(tf.cast(u * len(self._plan), tf.int32), len(self._plan) - 1)

    def _target(self, xt, rows, label):
        """What the student is to put out for xt in these rows: float32 [N, H, W, C]."""
        a, b, p, q = (at_rows(getattr(self._plan, name), rows) for name in "abpq")
        x0 = (self._teach(xt, rows, label) - a * xt) / b
        return tf.stop_gradient((x0 - p * xt) / q)

    def _teach(self, x, rows, label):
        """Where the teacher goes from x [N, H, W, C] in one step of the student's."""
        plan = self._fine
        for k in range(self.teacher_steps):
            fine = rows * self.teacher_steps + k
            out = self._guide(x, fine, label)
            a, b, p, q = (at_rows(getattr(plan, name), fine) for name in "abpq")
            x = a * x + b * tf.clip_by_value(p * x + q * out, 0.0, 1.0)
        return x

    def _guide(self, x, fine, label):
        """The teacher's guided output; images that aren't guided are called once."""
        t = tf.gather(tf.constant(self._fine.t / self._fine.num_train_steps, tf.float32), fine)
        scale = tf.gather(tf.constant(self._guided, tf.float32), fine)
        if not self.num_classes or (self._guided == 1).all():
            return self.denoise(x, t, label, network=self.teacher)
        # The first image always, so that none is a batch of nothing, which compiled kernels don't take.
        guided = tf.concat([tf.zeros([1, 1], tf.int64), tf.where(scale != 1)], axis=0)
        twice = [tf.concat([v, tf.gather_nd(v, guided)], 0) for v in (x, t)]
        hidden = tf.fill([tf.shape(guided)[0]], self.num_classes)
        out = self.denoise(*twice, tf.concat([label, hidden], 0), network=self.teacher)
        cond, uncond = out[: tf.shape(x)[0]], out[tf.shape(x)[0] :]
        scale = tf.gather_nd(scale, guided)
        combined = guidance.combine(tf.gather_nd(cond, guided), uncond, scale[:, None, None, None])
        return tf.tensor_scatter_nd_update(cond, guided, combined)

    def get_config(self):
        return {
            **super().get_config(),
            "teacher_steps": self.teacher_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": self.guidance_interval,
        }


def distill(
    model, *, num_steps=None, spacing="uniform", ema_decay=0.999, label_dropout=0.1, **options
):
    """A `Distillation` of a trained model, whose student begins as the teacher; unguided unless told otherwise.

    Args:
        model: `DiffusionModel` that draws from noise.
        num_steps, spacing: the student's times, as `DiffusionModel.sample` takes them; 10 unless told otherwise.
        ema_decay, label_dropout: of `Distillation`.
        options: further arguments of `Distillation`.

    Returns:
        `Distillation`, to be compiled and trained.

    Raises:
        ValueError: where the model is a one-step denoiser, or an argument is out of range.
    """
    check_draws(model)
    grid = few_times(model.schedule, num_steps, spacing=spacing)
    return Distillation(
        sampling_copy(model),
        model.schedule,
        teacher=sampling_copy(model),
        times=grid,
        prediction=model.prediction,
        num_classes=model.num_classes,
        data_std=model.data_std,
        ema_decay=ema_decay,
        label_dropout=label_dropout,
        **options,
    )


def _between(edges, count, *, whole):
    """Times with `count` steps between each two of edges [S+1]: [S*count + 1]; whole numbers between, where there is room."""
    parts = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = np.linspace(start, end, count, endpoint=False)
        rounded = np.append(part[:1], np.round(part[1:]))
        falls = (np.diff(np.append(rounded, end)) < 0).all()
        parts.append(rounded if whole and falls else part)
    return np.append(np.concatenate(parts), edges[-1])


def _check(teacher, teacher_steps, guidance_scale):
    if not is_integer(teacher_steps) or teacher_steps < 1:
        raise ValueError(f"teacher_steps: expected a positive integer, got {teacher_steps!r}")
    if not is_number(guidance_scale) or not np.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale: expected a number, got {guidance_scale!r}")
    if guidance_scale != 1 and "label" not in teacher.input:
        raise ValueError(
            f"guidance_scale: expected 1 for a network without classes, got {guidance_scale!r}"
        )
