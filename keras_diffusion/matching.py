"""Matching: a student is trained through all its calls until what it draws has real images' features, in mean and covariance."""

import time
from contextlib import nullcontext

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import pipeline, rates, replicas
from keras_diffusion.bars import bar
from keras_diffusion.compiled import clip_unit
from keras_diffusion.errors import is_integer
from keras_diffusion.few_steps import FewSteps, check_draws, sampling_copy
from keras_diffusion.muon import Muon
from keras_diffusion.nn.refining import acting
from keras_diffusion.sampling import tableau
from keras_diffusion.sampling.times import few_times
from keras_diffusion.training import CLASSES, EPS

_AT_ONCE = 250  # real images whose features are taken together
_RENEWALS = 4  # at most, of A in a round of the pool: its root takes long where features are many, and C moves slowly
_OF_CLASS = 10  # the square of what tells a class, in units of the features' variance; without end means would be matched by class
_BLOCK = 100  # noises of the pool that are made together


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Matching(FewSteps):
    """Brings a student's images to real ones' features; `adapt`, then `fit` as for `DiffusionModel`, then `student`.

    It draws from a pool of noises, over and over, and remembers the features f, with the class as a one-hot vector among
    them, that each noise's image had when it was last drawn. Of these and of real images there are means m, m* and
    covariances C, C*. The affine map that carries the one normal distribution to the other at the least cost,

        f -> m* + A (f - m),   A = C*^(1/2) (C*^(1/2) C C*^(1/2))^(-1/2) C*^(1/2),

    says where each image's features belong. The class counts some ten times as much as all features together, so that this is very
    nearly, for each class, the way from its mean to that of real images of the class, and A that of what varies within the classes
    (images without a class are nearly one more class). A training step draws as many images as its batch has, in all S calls, and the
    gradient is that of the squared way to where the features that its noises had *before* belong: a regression, which comes to rest
    where the moments are real images'. In a student that hasn't moved since, it is the Fréchet distance's gradient; in one that
    has it holds back all that moves elsewhere, image by image, so that a mean that drifts shows in every batch. (It is friction
    too: the features before are older than m is in the mean, by half a round of the pool.) `loss` is the mean squared way from
    where the features are now: an estimate of the distance, by moments that are up to a round late.

    With a new noise for every image m and C would be averages over recent batches, which are late and uncertain, and training
    swings about them. Those of a pool are of the same noises throughout. What it doesn't know of all other noises is learned with
    it, which F equally wide features of a total variance of 1 show as a distance of F/(4 * pool): it has to be large, and several
    rounds of it are needed; and each epoch has one of its own (`NewPools`). Its features, pool * F * 4 bytes, are kept, and saved with the model.

    Real images enter by m* and C* alone: they are looked at in `adapt`, not in `fit`. Nor are the labels that `fit` is given: in every
    hundred of the pool classes are as often there as among the images of `adapt`, to the whole image below or above.

    Args:
        network: the student's, as for `DiffusionModel`; one that already draws. What matching changes is little.
        schedule, prediction: as for `DiffusionModel`.
        features: functional Keras model, images float [N, H, W, C] in [0, 1] -> a list of features [N, F_i]. Each is
            brought to a total variance of 1 over real images, times its weight. It isn't trained. Judge by another one.
        times: float [S], falling from T.
        pool: how many noises; unless told otherwise 20 a feature, 2,000 at least. More than a hundred are rounded up to hundreds.
        through: how many of the S calls, the last ones, the gradient goes back through; None: all.
        weights: for each list item of the features a number above 0, by how much its squared ways count; None: 1 each.
        label_dropout: as for `DiffusionModel`: what is drawn without a class is matched together with the rest, whose moments it then
            pushes away from real images'; with 0 only what is drawn with a class is trained.
        ema_decay, num_classes, seed: as for `DiffusionModel`.
        data_std: kept for the student.

    Attributes:
        pool_seconds: how long the last pool took to draw here.

    Example:
        >>> matching = match(student, features)
        >>> matching.adapt(images, labels)
        >>> matching.compile(optimizer=keras.optimizers.Adam(2e-5))
        >>> matching.fit(images, labels, batch_size=100, epochs=1)
        >>> matching.student().sample([0, 1, 2])

    A rate for all distances, in place of 2e-5: `matching.muon(rates.Nearing())`, times a schedule that falls to 0.

    Reference: Aiello et al. 2023, "Fast Inference in Denoising Diffusion Models via MMD Finetuning"; DeVries et al. 2019, "On
    the Evaluation of Conditional GANs" (the distance joint with the class); Dowson & Landau 1982 (A); Defazio et al. 2014, "SAGA"
    (what is remembered of each of finitely many); Clark et al. 2024, "Directly Fine-Tuning Diffusion Models on Differentiable
    Rewards" (the last calls alone).
    """

    partner = "features"

    def __init__(
        self,
        network,
        schedule,
        *,
        features,
        times,
        pool=None,
        through=None,
        weights=None,
        **kwargs,
    ):
        for name, value in (("pool", pool), ("through", through)):
            if value is not None and (not is_integer(value) or value < 1):
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if through is not None and through > len(times):
            raise ValueError(f"through: expected at most the {len(times)} calls, got {through}")
        super().__init__(network, schedule, times=times, **kwargs)
        features.trainable = False
        sizes = [int(group.shape[-1]) for group in features.outputs]
        self.group_weights = _checked_weights(weights, len(sizes))
        size = sum(sizes) + self.num_classes
        pool = max(2000, 20 * size) if pool is None else pool
        self._block = min(_BLOCK, pool)
        self.pool = -(-pool // self._block) * self._block
        self.through = through
        self.features, self._sizes = features, sizes
        self._scale = self._moment("scale", (size,), "ones")
        self._real_mean = self._moment("real_mean", (size,))
        self._real_root = self._moment("real_root", (size, size))
        self._own_mean = self._moment("own_mean", (size,))
        self._own_square = self._moment("own_square", (size, size))  # mean of f f^T
        self._map = self._moment("map", (size, size))
        self._distance = self._moment("distance", ())
        self._remembered = self.add_weight(
            shape=(self.pool, size), dtype="float32", trainable=False, name="remembered"
        )
        self._block_function = None
        self.pool_seconds = 0.0
        self._next, self._pool_number = (
            self.add_weight(
                shape=(), dtype="int64", initializer="zeros", trainable=False, name=name
            )
            for name in ("next", "pool_number")
        )

    def _moment(self, name, shape, initializer="zeros"):
        """A statistic; in float64, since what `_affine` takes the root of are products of two variances."""
        return self.add_weight(
            shape=shape, initializer=initializer, dtype="float64", trainable=False, name=name
        )

    def adapt(self, images, labels=None, *, progress=False):
        """Takes the moments of real images' features, and draws the pool's images for theirs.

        Args:
            images: float [N, H, W, C] in [0, 1] or uint8.
            labels: int [N]; without classes leave them out.
            progress: whether to show a bar (needs tqdm).

        Raises:
            ValueError: where images or `pool` are no more than the features, labels are missing, or a value is out of range.
        """
        labels = self._checked(images, labels)
        total = len(images) + self.pool
        with bar(total, unit="images", what="adapt") if progress else nullcontext() as shown:
            self._adapt(images, labels, done=shown.update if progress else lambda count: None)

    def _adapt(self, images, labels, *, done):
        """`done` is called with the number of images whose features were taken."""
        real = self._seen(images, done).astype(np.float64)
        scales = self._scales(real)
        self._scale.assign(scales)
        known = _with_class(real, labels, self.num_classes)
        mean, covariance = self._moments_of(scales * known)
        self._real_mean.assign(mean)
        self._real_root.assign(_root(covariance))
        self._draw_pool(0, done)

    def new_pool(self, number, *, progress=False):
        """Draws a pool of other noises, and forgets the one before; what `fit` does at the beginning of an epoch of another number.

        Args:
            number: of the pool, from 0 (that of `adapt`) on: the epoch that it is for, counted from 0.
            progress: whether to show a bar (needs tqdm).

        Raises:
            ValueError: before `adapt`.
        """
        self._check_adapted("new_pool")
        with bar(self.pool, unit="images", what="pool") if progress else nullcontext() as shown:
            self._draw_pool(number, shown.update if progress else lambda count: None)

    def _draw_pool(self, number, done):
        began = time.monotonic()
        self._pool_number.assign(number)
        self._next.assign(0)
        try:
            self._remembered.assign(self._drawn(done))
        except BaseException:
            self._pool_number.assign(-1)  # of none: the next epoch draws its own
            raise
        self.pool_seconds = time.monotonic() - began
        found = self._remembered.numpy().astype(np.float64)  # as they are remembered
        self._own_mean.assign(found.mean(axis=0))
        self._own_square.assign(found.T @ found / len(found))
        self._renew(due=tf.constant(True))

    def distance(self):
        """How far what the pool's noises become is from real images: the squared Fréchet distance of features and class, as a share of
        the real features' total variance, both by the weights of the features' groups. By what is remembered: up to a round of the pool late.

        Raises:
            ValueError: before `adapt`.
        """
        self._check_adapted("distance")
        return float(self._distance.numpy())

    def _checked(self, images, labels):
        """The labels as int32 [N]; zeros without classes.

        Raises:
            ValueError: as `adapt`.
        """
        size = self._scale.shape[0]
        if len(images) <= size:
            raise ValueError(f"images: expected more than the {size} features, got {len(images)}")
        if self.pool <= size:
            raise ValueError(f"pool: expected more than the {size} features, got {self.pool}")
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

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        *args,
        **kwargs,
    ):
        """As `DiffusionModel`'s; `adapt` comes before. The pool of an epoch is the one of its number, which `NewPools` sees to (in a
        `CallbackList` of your own it is yours to put).

        Raises:
            ValueError: where it didn't.
        """
        self._check_adapted("fit")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.tree.flatten(callbacks or [])
            if not any(isinstance(one, NewPools) for one in callbacks):
                callbacks = [NewPools(), *callbacks]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)

    def _check_adapted(self, asked):
        if not self._real_root.numpy().any():
            raise ValueError(
                f"{asked}: expected a model that was adapted, got one that wasn't; call adapt"
            )

    def _scales(self, features):
        """Each group's, by which its total variance is its weight, and the class's."""
        groups = np.split(features, np.cumsum(self._sizes)[:-1], axis=1)
        total = [max(float(group.var(axis=0).sum()), 1e-12) for group in groups]
        scales = np.repeat(np.sqrt(np.divide(self.group_weights, total)), self._sizes)
        known = np.sqrt(_OF_CLASS * sum(self.group_weights))
        return np.concatenate([scales, np.full(self.num_classes, known)])

    def _moments_of(self, features):
        """Mean [F] and covariance [F, F], as if `label_dropout` of the classes were hidden from those that know them."""
        seen = np.ones(features.shape[1])
        seen[features.shape[1] - self.num_classes :] = 1 - self.label_dropout
        mean, square = features.mean(axis=0), features.T @ features / len(features)
        # A class's square is its scale times itself, so that being seen counts once in it.
        mean, square = seen * mean, square * np.minimum.outer(seen, seen)
        return mean, square - np.outer(mean, mean)

    def _seen(self, images, done):
        """Features of images as they come: float32 [N, sum of F_i]."""
        look, found = tf.function(self._features, reduce_retracing=True), []
        for part in _slices(len(images)):
            found.append(look(_pixels(images[part])).numpy())
            done(len(found[-1]))
        return np.concatenate(found)

    def _drawn(self, done):
        """Features of the whole pool, as the sampling network draws it: float32 [P, F]."""
        return self._of_all_blocks(done)[0]

    def _of_all_blocks(self, done):
        """What `_block_from` finds, for the whole pool: float32 arrays [P, ...]. Replicas share the blocks."""
        if self._block_function is None:  # once: all pools are drawn by the same graph
            self._block_function = tf.function(self._blocks_from)
        found, together = [], self._block * self.distribute_strategy.num_replicas_in_sync
        for begin in range(0, self.pool, together):
            parts = self._block_function(tf.constant(begin, tf.int64))
            found.append([part.numpy() for part in parts])
            done(min(together, self.pool - begin))
        return [np.concatenate(parts)[: self.pool] for parts in zip(*found, strict=True)]

    def _blocks_from(self, begin):
        """What `_block_from` finds, of a block for each replica: float32 [N, ...]. Beyond the pool's end they are its first again."""

        def found():
            return [replicas.gathered(tf.cast(f, tf.float32)) for f in self._block_from(begin)]

        parts = self.distribute_strategy.run(found)
        return [self.distribute_strategy.experimental_local_results(part)[0] for part in parts]

    def _block_from(self, begin):
        """(features [N, F],) of this replica's block of the pool, whose first begins at a number."""
        noise, label = self._noises(begin, self._block), self._classes(begin, self._block)
        return (self._joint(self._draw(self.sampling_network, noise, label), label),)

    def _noises(self, begin, count):
        """Noises of the pool [N, H, W, C], this replica's `count`, from number `begin` of the pool on."""
        shape = [self._block, *self.image_shape]

        def block(number):
            return tf.random.stateless_normal(shape, self._key(number, EPS), alg="philox")

        return self._of_pool(block, tf.float32, begin, count)

    def _classes(self, begin, count):
        """Their classes [N]; zeros without classes. In each block as often as among real images, and hidden as often as there.

        Systematic sampling: equidistant points on the classes' shares laid end to end, from a start that is drawn.
        """
        if not self.num_classes:
            return tf.zeros([count], tf.int32)
        known = slice(-self.num_classes, None)
        ends = tf.cumsum(self._real_mean.value[known] / self._scale.value[known])
        ends = tf.where(
            ends > 1 - 1e-9, tf.ones_like(ends), ends
        )  # of sums that rounding leaves below 1

        def block(number):
            key = self._key(number, CLASSES)
            u = tf.random.stateless_uniform([], key, dtype=tf.float64, alg="philox")
            points = (u + tf.range(self._block, dtype=tf.float64)) / self._block
            points = tf.random.experimental.stateless_shuffle(points, key, alg="philox")
            return tf.cast(tf.searchsorted(ends, points, side="right"), tf.int32)

        return self._of_pool(block, tf.int32, begin, count)

    def _of_pool(self, block, dtype, begin, count):
        """What `block` makes of the numbers of the pool's blocks, laid end to end: this replica's `count` from `begin` on."""

        begin = tf.convert_to_tensor(begin)

        def rows(n):
            numbers = begin // self._block + tf.range(tf.cast((n - 1) // self._block + 2, tf.int64))
            whole = self.pool // self._block
            numbers = numbers % whole + whole * self._pool_number.value
            made = tf.map_fn(block, numbers, fn_output_signature=dtype)
            made = tf.reshape(made, tf.concat([[-1], tf.shape(made)[2:]], 0))
            return tf.gather(made, tf.cast(begin % self._block, tf.int32) + tf.range(n))

        return replicas.drawn(rows, count)

    def _rows(self, count):
        """Numbers of the pool that a step draws, of all replicas' `count` images together: int64 [N]."""
        return (self._next.value + tf.range(tf.cast(count, tf.int64))) % self.pool

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
        count = len(self._plan.t)
        first = count - (self.through or count)
        x, x0 = self._calls(network, x, tf.zeros_like(x), label, range(first))
        if first:
            x, x0 = tf.stop_gradient(x), tf.stop_gradient(x0)
        return self._calls(network, x, x0, label, range(first, count))[0]

    def _calls(self, network, x, x0, label, calls):
        """Some of the calls: x and x0 [N, H, W, C] before them to those after them."""
        for call in calls:
            x, x0 = self._end(call, x, x0, self._call(network, call, x, label))
        return x, x0

    def _call(self, network, call, x, label):
        """The network's output in a call: float32 [N, H, W, C]."""
        acts = acting(network, self._plan.t[call])
        return tf.cast(self.denoise(x, self._time(call, x), label, network=acts), tf.float32)

    def _time(self, call, x):
        """t/T of a call for each of the images: float32 [N]."""
        t = np.float32(self._plan.t[call] / self._plan.num_train_steps)
        return tf.fill(tf.shape(x)[:1], t)

    def _end(self, call, x, x0, out):
        """x and x0 after a call that put out `out`."""
        row = tableau.Row(*self._plan.rows.astype(np.float32)[call])
        return tableau.step(x, x0, out, 0.0, row, clip_unit, clip_unit)

    def _hide(self, label, *, step):
        """The classes of the pool that a step draws, some of them hidden, in place of those of its images."""
        return self._classes(self._next.value, tf.shape(label)[0])

    def _loss(self, network, x0, label, *, step, training):
        count = tf.shape(x0)[0]
        if training:
            drawn = self._draw_next(network, label, count)
        else:
            drawn = self._draw(network, self._noise(x0, step), label)
        found = self._joint(drawn, label)
        now = tf.stop_gradient(found)
        distance = _way(now, self._target(now))
        if not training:
            return distance
        between = -(-self.pool // (_RENEWALS * replicas.total(count)))
        self._renew(due=tf.equal(step % tf.cast(between, step.dtype), 0))
        rates.tell(self, self._distance.value)
        before = replicas.drawn(lambda n: tf.gather(self._remembered.value, self._rows(n)), count)
        way = _way(found, tf.stop_gradient(self._target(tf.cast(before, tf.float64))))
        self._remember(now)
        return distance + way - tf.stop_gradient(way)  # the one's value, the other's gradient

    def _draw_next(self, network, label, count):
        """What a network draws from the pool's next noises."""
        return self._draw(network, self._noises(self._next.value, count), label)

    def _target(self, found):
        """Where the features [N, F] belong: m* + A (f - m)."""
        off = found - self._own_mean.value
        # What A changes is small near real images: it alone may be rounded, to float32 or a GPU's tf32.
        change = self._map.value - tf.eye(tf.shape(off)[1], dtype=off.dtype)
        rounded = tf.cast(off, tf.float32) @ tf.cast(change, tf.float32)
        return self._real_mean.value + off + tf.cast(rounded, tf.float64)

    def _affine(self):
        """A of the covariances as they are, and `distance`."""
        root = self._real_root.value
        mean = self._own_mean.value[:, None]
        covariance = self._own_square.value - mean * tf.transpose(mean)
        values, vectors = tf.linalg.eigh(root @ covariance @ root)
        values = tf.maximum(values, 0.0)
        half = (root @ vectors) * tf.pow(values + _RIDGE, -0.25)  # A is half half^T
        off = tf.reduce_sum(tf.square(self._own_mean.value - self._real_mean.value))
        real = tf.reduce_sum(tf.square(root))
        way = off + tf.linalg.trace(covariance) + real - 2 * tf.reduce_sum(tf.sqrt(values))
        share = tf.maximum(way, 0) / sum(self.group_weights)
        return tf.matmul(half, half, transpose_b=True), share

    def _renew(self, *, due):
        """Finds A and the distance anew where that is due."""
        kept = (self._map.value, self._distance.value)
        affine, distance = tf.cond(due, self._affine, lambda: kept)
        self._map.assign(affine)
        # A rate goes by it, which must be the same for all workers.
        self._distance.assign(replicas.mean(distance))

    def _remember(self, found):
        """Puts a step's features in the place of those of the same noises, and what that changes into the moments."""
        found = replicas.gathered(tf.cast(found, tf.float32))
        rows, remembered = self._rows(tf.shape(found)[0]), self._remembered.value
        after = (self._next.value + tf.size(rows, tf.int64)) % self.pool
        found, rows = found[-self.pool :], rows[-self.pool :]  # of a noise drawn twice the last
        now, before = (tf.cast(f, tf.float64) for f in (found, tf.gather(remembered, rows)))
        square = tf.matmul(now, now, transpose_a=True) - tf.matmul(before, before, transpose_a=True)
        self._own_mean.assign_add(tf.reduce_sum(now - before, axis=0) / self.pool)
        self._own_square.assign_add(square / self.pool)
        self._remembered.assign(tf.tensor_scatter_nd_update(remembered, rows[:, None], found))
        self._next.assign(after)

    def get_config(self):
        own = {"pool": self.pool, "through": self.through, "weights": self.group_weights}
        return {**super().get_config(), **own}


class NewPools(keras.callbacks.Callback):
    """At the beginning of an epoch a `Matching` whose pool is of another number draws that of the epoch's, counted from 0.

    A network learns by heart what helps the noises of a pool and no others. `adapt` draws that of the first epoch; the same seed and
    number draw the same noises.

    Args:
        say: function of a line, which is told how far training has come; None: of nothing.
    """

    def __init__(self, say=None):
        super().__init__()
        self.say = say

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != int(self.model._pool_number.numpy()):
            was = self.model.distance()
            self.model.new_pool(epoch)
            if self.say:
                now = self.model.distance()
                self.say(
                    f"epoch {epoch + 1}: distance {now:.2g} times real images' variance by new noises, {was:.2g} by those before"
                )


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
    grid = grid_of(model, num_steps, spacing)
    return of_model(
        Matching,
        sampling_copy(model),
        model,
        features=features,
        times=grid,
        ema_decay=ema_decay,
        label_dropout=label_dropout,
        **options,
    )


def of_model(make, network, model, **options):
    """A `Matching`, or what `make` makes, of a network that begins as a model's, with what that says of itself."""
    return make(
        network,
        model.schedule,
        prediction=model.prediction,
        num_classes=model.num_classes,
        data_std=model.data_std,
        **options,
    )


def grid_of(model, num_steps, spacing):
    """The times of a student that begins as a model: float64 [S]. The arguments are `match`'s."""
    if num_steps is None and spacing is None:
        spacing = model.sampling.get("spacing")
    return few_times(model.schedule, num_steps, spacing="uniform" if spacing is None else spacing)


def adam(rate):
    """The Adam that `Matching` does best with: quick to see that gradients have become smaller, and not led astray by one batch."""
    return keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-8, global_clipnorm=1.0)


def muon(rate):
    """Muon for `Matching`: as near as Adam comes, with less motion elsewhere; what `kd.Muon` leaves to Adam has that of `adam`."""
    return Muon(rate, adam_beta_2=0.99, global_clipnorm=1.0)


def _way(found, target):
    """The mean squared way from features [N, F] to where they belong."""
    return tf.cast(tf.reduce_mean(tf.reduce_sum(tf.square(found - target), axis=1)), tf.float32)


def _checked_weights(weights, count):
    """One for each of `count` groups of features, as a list.

    Raises:
        ValueError: where it is something else.
    """
    if weights is None:
        return [1.0] * count
    weights = [float(weight) for weight in weights]
    if len(weights) != count or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(f"weights: expected {count} numbers above 0, got {weights}")
    return weights


def _pixels(images):
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


def _slices(count):
    return [slice(k, min(k + _AT_ONCE, count)) for k in range(0, count, _AT_ONCE)]


def _with_class(features, labels, num_classes):
    return np.concatenate([features, np.eye(num_classes + 1)[labels, :num_classes]], axis=1)


def _root(matrix):
    """The square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
