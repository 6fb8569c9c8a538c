"""Matching: a student is trained through all its calls until what it draws has real images' features, in mean and covariance."""

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import pipeline, replicas
from keras_diffusion.compiled import clip_unit
from keras_diffusion.errors import is_integer
from keras_diffusion.few_steps import FewSteps, check_draws, sampling_copy
from keras_diffusion.muon import Muon
from keras_diffusion.sampling import tableau
from keras_diffusion.sampling.times import few_times
from keras_diffusion.training import CLASSES

_AT_ONCE = 250  # images whose features are taken, or that are drawn, together
_RENEWED = 4  # steps after which A is found anew: its root takes long where features are many, and C moves slowly


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Matching(FewSteps):
    """Brings a student's images to real ones' features; `adapt`, then `fit` as for `DiffusionModel`, then `student`.

    A training step draws as many images as its batch has, from noise, in all S calls, and takes their features f, with
    the class as a one-hot vector among them. Of drawn and of real images they have means m, m* and covariances C, C*. The
    affine map that carries the one normal distribution to the other at the least cost,

        f -> m* + A (f - m),   A = C*^(1/2) (C*^(1/2) C C*^(1/2))^(-1/2) C*^(1/2),

    says where each image's features belong; the loss is the squared way there, and the gradient goes back through every
    call. While m and C are true, its mean is the Fréchet distance, and its gradient the distance's.

    m and C are running averages over the last images. They need many more than there are features, since A of an uncertain C is
    too large in the mean; but an average lags behind what is trained, and of a late m training swings. So every four steps,
    when A is found anew, the batch is also drawn with the weights of four steps before, and what that changed in its own mean
    is added to m: of the same noise, it is known far better than either. (Not so for C: a batch has fewer images than there are
    features, and what it says of their covariances would leave C with variances below 0.) Real images enter by m*
    and C* alone: they are looked at in `adapt`, not in `fit`. Nor are the labels that `fit` is given: a batch's classes are as
    often there as among the images of `adapt`, to the nearest whole image, so that no chance in their number moves m and C.

    Args:
        network: the student's, as for `DiffusionModel`; one that already draws. What matching changes is little.
        schedule, prediction: as for `DiffusionModel`.
        features: functional Keras model, images float [N, H, W, C] in [0, 1] -> a list of features [N, F_i]. Each is
            brought to a total variance of 1 over real images. It isn't trained. Judge by another one.
        times: float [S], falling from T.
        window: images that the running averages reach back over; unless told otherwise five a feature, 2,000 at least.
        label_dropout: as for `DiffusionModel`: what is drawn without a class is matched together with the rest, whose moments it then
            pushes away from real images'; with 0 only what is drawn with a class is trained.
        ema_decay, num_classes, seed: as for `DiffusionModel`.
        data_std: kept for the student.

    Example:
        >>> matching = match(student, features)
        >>> matching.adapt(images, labels)
        >>> matching.compile(optimizer=keras.optimizers.Adam(6e-6))
        >>> matching.fit(images, labels, batch_size=100, epochs=1)
        >>> matching.student().sample([0, 1, 2])

    Reference: Aiello et al. 2023, "Fast Inference in Denoising Diffusion Models via MMD Finetuning"; DeVries et al. 2019, "On
    the Evaluation of Conditional GANs" (the distance joint with the class); Dowson & Landau 1982 (A); Cutkosky & Orabona 2019,
    "Momentum-Based Variance Reduction in Non-Convex SGD" (averages that follow).
    """

    partner = "features"

    def __init__(self, network, schedule, *, features, times, window=None, **kwargs):
        if window is not None and (not is_integer(window) or window < 1):
            raise ValueError(f"window: expected a positive integer, got {window!r}")
        super().__init__(network, schedule, times=times, **kwargs)
        features.trainable = False
        sizes = [int(group.shape[-1]) for group in features.outputs]
        size = sum(sizes) + self.num_classes
        self.window = max(2000, 5 * size) if window is None else window
        self.features, self._sizes = features, sizes
        self.before = keras.models.clone_model(network)  # with the weights of the last A
        self.before.set_weights(network.get_weights())
        self.before.trainable = False
        self._scale = self._moment("scale", (size,), "ones")
        self._real_mean = self._moment("real_mean", (size,))
        self._real_root = self._moment("real_root", (size, size))
        self._own_mean = self._moment("own_mean", (size,))
        self._own_covariance = self._moment("own_covariance", (size, size))
        self._map = self._moment("map", (size, size))

    def _moment(self, name, shape, initializer="zeros"):
        """A statistic; in float64, since what `_affine` takes the root of are products of two variances."""
        return self.add_weight(
            shape=shape, initializer=initializer, dtype="float64", trainable=False, name=name
        )

    def adapt(self, images, labels=None):
        """Takes the moments of real images' features, and of as many drawn images as the window holds.

        Args:
            images: float [N, H, W, C] in [0, 1] or uint8.
            labels: int [N]; without classes leave them out.

        Raises:
            ValueError: where images or `window` are no more than the features, labels are missing, or a value is out of range.
        """
        labels = self._checked(images, labels)
        look = tf.function(self._features, reduce_retracing=True)
        real = [look(_pixels(images[part])) for part in _slices(len(images))]
        real = np.concatenate([np.asarray(part, np.float64) for part in real])
        self._scale.assign(self._scales(real))
        scale = self._scale.numpy()[: real.shape[1]]
        mean, covariance = self._moments_of(_with_class(real * scale, labels, self.num_classes))
        self._real_mean.assign(mean)
        self._real_root.assign(_root(covariance))
        self.before.set_weights(self.sampling_network.get_weights())  # by which is drawn here
        mean, covariance = _moments(self._drawn(self.window))
        self._own_mean.assign(mean)
        self._own_covariance.assign(covariance)
        self._map.assign(self._affine())

    def _checked(self, images, labels):
        """The labels as int32 [N]; zeros without classes.

        Raises:
            ValueError: as `adapt`.
        """
        size = self._scale.shape[0]
        if len(images) <= size:
            raise ValueError(f"images: expected more than the {size} features, got {len(images)}")
        if self.window <= size:
            raise ValueError(
                f"window: expected more images than the {size} features, got {self.window}"
            )
        if not self.num_classes:
            return np.zeros(len(images), np.int32)
        if labels is None or len(labels) != len(images):
            got = "images alone" if labels is None else f"{len(labels)} for {len(images)}"
            raise ValueError(f"labels: expected one integer an image, got {got}")
        labels = np.asarray(labels, np.int32).reshape(-1)
        images = np.asarray(images)
        pipeline.check_arrays(
            images if images.dtype != np.uint8 else None, labels, self.num_classes
        )
        return labels

    def fit(self, *args, **kwargs):
        """As `DiffusionModel`'s; `adapt` comes before.

        Raises:
            ValueError: where it didn't.
        """
        if not self._real_root.numpy().any():
            raise ValueError(
                "fit: expected a model that was adapted, got one that wasn't; call adapt"
            )
        return super().fit(*args, **kwargs)

    def _scales(self, features):
        """Each group's, by which its total variance is 1; those of the class are 1."""
        groups = np.split(features, np.cumsum(self._sizes)[:-1], axis=1)
        total = [max(float(group.var(axis=0).sum()), 1e-12) for group in groups]
        scales = np.repeat(1 / np.sqrt(total), self._sizes)
        return np.concatenate([scales, np.ones(self.num_classes)])

    def _moments_of(self, features):
        """Mean [F] and covariance [F, F], as if `label_dropout` of the classes were hidden from those that know them."""
        seen = np.ones(features.shape[1])
        seen[features.shape[1] - self.num_classes :] = 1 - self.label_dropout
        mean, square = features.mean(axis=0), features.T @ features / len(features)
        # A class's square is itself, so that being seen counts once in it.
        mean, square = seen * mean, square * np.minimum.outer(seen, seen)
        return mean, square - np.outer(mean, mean)

    def _drawn(self, count):
        """Features of images that the student draws: float64 [N, F]. Steps below 0 are theirs."""
        draw = tf.function(
            lambda noise, label: self._joint(self._draw(self.sampling_network, noise, label), label)
        )
        found = []
        for number, part in enumerate(_slices(count)):
            step = tf.constant(-1 - number, tf.int64)
            noise = self._noise(tf.zeros([part.stop - part.start, *self.image_shape]), step)
            found.append(draw(noise, self._classes(tf.shape(noise)[0], step)).numpy())
        return np.concatenate(found)

    def _classes(self, count, step):
        """Classes of a batch [N], in order, each as often as it is known among real images, and hidden as often as there; zeros without classes.

        Systematic sampling: N equidistant points on the classes' shares laid end to end, from a start that is drawn.
        """
        if not self.num_classes:
            return tf.zeros([count], tf.int32)
        ends = tf.cumsum(self._real_mean.value[-self.num_classes :])
        ends = tf.where(
            ends > 1 - 1e-9, tf.ones_like(ends), ends
        )  # of sums that rounding leaves below 1
        key = self._key(step, CLASSES)

        def points(n):
            u = tf.random.stateless_uniform([], key, dtype=tf.float64, alg="philox")
            return (u + tf.range(tf.cast(n, tf.float64), dtype=tf.float64)) / tf.cast(n, tf.float64)

        found = tf.searchsorted(ends, replicas.drawn(points, count), side="right")
        return tf.cast(found, tf.int32)

    def _features(self, images):
        """[N, sum of F_i], as they come."""
        found = keras.tree.flatten(self.features(images, training=False))  # one alone is no list
        return tf.concat([tf.cast(f, tf.float32) for f in found], 1)

    def _joint(self, images, label):
        """Features at their scale, and the class: float64 [N, F]."""
        found = tf.cast(self._features(images), tf.float64)
        known = tf.one_hot(label, self.num_classes, dtype=tf.float64)
        return self._scale.value * tf.concat([found, known], 1)

    def _draw(self, network, x, label):
        """What a network draws from noise x [N, H, W, C] in all its calls."""
        x0 = tf.zeros_like(x)
        for t, row in zip(self._plan.t, self._plan.rows.astype(np.float32), strict=True):
            time = tf.fill(tf.shape(x)[:1], np.float32(t / self._plan.num_train_steps))
            out = tf.cast(self.denoise(x, time, label, network=network), tf.float32)
            x, x0 = tableau.step(x, x0, out, 0.0, tableau.Row(*row), clip_unit, clip_unit)
        return x

    def _hide(self, label, *, step):
        """The classes that a step draws, of which some are hidden, in place of those of its images."""
        return self._classes(tf.shape(label)[0], step)

    def _loss(self, network, x0, label, *, step, training):
        noise = self._noise(x0, step)
        found = self._joint(self._draw(network, noise, label), label)
        now = tf.stop_gradient(found)
        if training:
            self._renew(now, noise, label, due=tf.equal(step % _RENEWED, 0))
        target = tf.stop_gradient(self._target(found))
        if training:
            self._remember(now)
        way = tf.reduce_sum(tf.square(found - target), axis=1)
        return tf.cast(tf.reduce_mean(way), tf.float32)

    def _target(self, found):
        """Where the features [N, F] belong: m* + A (f - m)."""
        return self._real_mean.value + (found - self._own_mean.value) @ self._map.value

    def _affine(self):
        """A of the covariances as they are."""
        root = self._real_root.value
        values, vectors = tf.linalg.eigh(root @ self._own_covariance.value @ root)
        scaled = vectors * tf.math.rsqrt(tf.maximum(values, 0.0) + _RIDGE)
        return root @ tf.matmul(scaled, vectors, transpose_b=True) @ root

    def _renew(self, now, noise, label, *, due):
        """Where that is due, finds A anew, and has the mean follow the weights; `now` are the features by those that are now."""

        def drawn_before():
            return self._joint(self._draw(self.before, noise, label), label)

        # No sums over replicas in a branch: TensorFlow doesn't allow them there. Where none is due nothing has changed.
        self._follow(tf.stop_gradient(tf.cond(due, drawn_before, lambda: now)), now)
        self._map.assign(tf.cond(due, self._affine, lambda: self._map.value))
        for weight, present in zip(self.before.weights, self.network.weights, strict=True):
            weight.assign(tf.where(due, present.value, weight.value))

    def _follow(self, before, now):
        """Adds to the running mean what changed from `before` to `now`, features [N, F] of the same noise."""
        count = replicas.total(tf.cast(tf.shape(now)[0], tf.float64))
        self._own_mean.assign_add(replicas.total(tf.reduce_sum(now - before, axis=0)) / count)

    def _remember(self, found):
        """The running averages, with a batch's features among them."""
        count = replicas.total(tf.cast(tf.shape(found)[0], tf.float64))
        off = found - self._own_mean.value
        mean = replicas.total(tf.reduce_sum(off, axis=0)) / count
        square = replicas.total(tf.matmul(off, off, transpose_a=True)) / count
        share = tf.minimum(count / self.window, 1.0)
        self._own_mean.assign_add(share * mean)
        self._own_covariance.assign_add(share * (square - self._own_covariance.value))

    def get_config(self):
        return {**super().get_config(), "window": self.window}


_RIDGE = 1e-10  # of the eigenvalues, products of two variances: directions of variances below 1e-5 are left narrow


def match(
    model, features, *, num_steps=None, spacing=None, ema_decay=0.98, label_dropout=0.0, **options
):
    """A `Matching` of a trained model, whose student begins as this.

    Args:
        model: `DiffusionModel` that draws from noise; a student of `distill`, or any other.
        features: as for `Matching`.
        num_steps, spacing: the student's times, as `DiffusionModel.sample` takes them; unless told otherwise a student's own,
            or 10 uniform ones.
        ema_decay, label_dropout: of `Matching`.
        options: further arguments of `Matching`.

    Returns:
        `Matching`, to be adapted, compiled and trained.

    Raises:
        ValueError: where the model is a one-step denoiser, or an argument is out of range.
    """
    check_draws(model)
    if num_steps is None and spacing is None:
        spacing = model.sampling.get("spacing")
    grid = few_times(model.schedule, num_steps, spacing="uniform" if spacing is None else spacing)
    return Matching(
        sampling_copy(model),
        model.schedule,
        features=features,
        times=grid,
        prediction=model.prediction,
        num_classes=model.num_classes,
        data_std=model.data_std,
        ema_decay=ema_decay,
        label_dropout=label_dropout,
        **options,
    )


def adam(rate):
    """The Adam that `Matching` does best with: quick to see that gradients have become smaller, and not led astray by one batch."""
    return keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-8, global_clipnorm=1.0)


def muon(rate):
    """Muon for `Matching`, which bore three times the rate that Adam does; what `kd.Muon` leaves to Adam has that of `adam`."""
    return Muon(rate, adam_beta_2=0.99, global_clipnorm=1.0)


def _pixels(images):
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


def _slices(count):
    return [slice(k, min(k + _AT_ONCE, count)) for k in range(0, count, _AT_ONCE)]


def _moments(features):
    """Mean [F] and covariance [F, F]."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False, bias=True))


def _with_class(features, labels, num_classes):
    return np.concatenate([features, np.eye(num_classes + 1)[labels, :num_classes]], axis=1)


def _root(matrix):
    """The square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
