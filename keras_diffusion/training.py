"""DiffusionModel: a network, a schedule and a prediction as an ordinary Keras model."""

import copy
import math

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import compiled, pipeline, predictions, replicas, schedules
from keras_diffusion.errors import is_number
from keras_diffusion.muon import Muon  # noqa: F401  (load_model looks it up)
from keras_diffusion.nn import Estimates, Precondition, blocks, refining
from keras_diffusion.nn.tables import look_up, spread
from keras_diffusion.sampling import guidance, loop, redrawing, request, samplers

EPS, _TIME, CLASSES, _STREAMS = range(4)
_SHUFFLE = 6  # place of `shuffle` among the arguments of Keras's `fit` after x and y


@keras.saving.register_keras_serializable(package="keras_diffusion")
class DiffusionModel(keras.Model):
    """Trains and samples a diffusion model: DDPM, rectified flow, or the one-step denoiser (T = 1).

    One training step draws a time t and noise eps for each image, forms `xt = alpha*x0 + sigma*eps`, and minimises the
    mean of `(target - network(xt, t/T, label))²`. Every draw is a pure function of `seed` and the step's number.

    Args:
        network: functional Keras model on a dict of `x`, and where it has them `t` and `label`, as `unet` builds it.
        schedule: `Schedule`.
        prediction: "eps", "x0", "v" or "flow".
        label_dropout: probability with which an image's class is hidden, for classifier-free guidance.
        ema_decay: decay of the averaged weights that sampling uses, or None for none. The average covers the moving
            statistics of BatchNorm, and warms up: step k uses min(ema_decay, (1 + k)/(10 + k)).
        num_classes: K; None asks the network's `OneHot` layer. 0 without classes.
        seed: of every random draw of training.
        min_snr: None weighs all times alike, as the course does; a number weighs the error of x0 by min(SNR, number).
        data_std: None, or the standard deviation s of the pixels: weighs the error of x0 by SNR + 1/s², so that the
            loss is 1 at every t for the best linear guess; for a network of `precondition` (another's x0 would be
            weighed without bound near t = 0). Not together with min_snr.
        stratified: whether the times of a batch are spread evenly over (0, T], each still uniform, for a calmer loss.
        sampling: dict of arguments of `sample` (sampler, num_steps, spacing, sharpen, eta, variance, guidance_scale,
            guidance_interval) that hold where none is given; None: those of `sampling.samplers.usual`.

    Example:
        >>> model = DiffusionModel(unet(width=64, num_classes=10), linear_schedule(300))
        >>> model.compile(optimizer=keras.optimizers.Adam(1e-3))
        >>> model.fit(images, labels, batch_size=128, epochs=20)
        >>> model.sample(labels=[0, 1, 2], guidance_scale=5.0)

    Reference: Ho et al. 2020; Ho & Salimans 2022; Hang et al. 2023 (min_snr); Karras et al. 2022 (data_std); Kingma et al. 2021 (stratified).
    """

    def __init__(
        self,
        network,
        schedule,
        *,
        prediction="eps",
        label_dropout=0.1,
        ema_decay=0.999,
        num_classes=None,
        seed=0,
        min_snr=None,
        data_std=None,
        stratified=False,
        sampling=None,
        **kwargs,
    ):
        kwargs.setdefault("dtype", network.dtype_policy)
        super().__init__(**kwargs)
        self.inputs_used = _input_names(network)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.label_dropout = label_dropout
        self.ema_decay = ema_decay
        self.num_classes = blocks.count_classes(network) if num_classes is None else num_classes
        self.seed = seed
        self.min_snr = min_snr
        self.data_std = data_std
        self.stratified = stratified
        self._check()
        own = {} if sampling is None else samplers.as_defaults(sampling, schedule, prediction)
        self.sampling = samplers.fill_in(own, samplers.usual(schedule, self.num_classes))
        self.ema_network = None
        if ema_decay is not None:
            self.ema_network = blocks.copied(network)
            self.ema_network.trainable = False
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        self.loss_tracker = keras.metrics.Mean(name="loss")
        # The last batch's own loss: Keras's logs hold the running mean of the epoch.
        self.batch_loss = tf.Variable(
            np.nan, dtype=tf.float32, trainable=False, aggregation=tf.VariableAggregation.SUM
        )
        self._sampling_loop = None
        self.built = True

    def _check(self):
        predictions.row(self.prediction, 1.0, 0.0)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout: expected 0..1, got {self.label_dropout}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected None or 0 <= decay < 1, got {self.ema_decay}")
        for name in ("min_snr", "data_std"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name}: expected None or a positive number, got {value!r}")
        if self.min_snr is not None and self.data_std is not None:
            raise ValueError("min_snr and data_std: expected one of them, got both")
        for layer in blocks.layers(self.network):
            if isinstance(layer, Precondition | Estimates):
                layer.check_fits(self.schedule, self.prediction, self.data_std)
        if self.prediction == "eps" and self.schedule.alpha[-1] == 0:
            raise ValueError(
                "prediction: 'eps' can't tell x0 where alpha = 0; use 'x0', 'v' or 'flow'"
            )
        if "label" in self.inputs_used and not self.num_classes:
            raise ValueError(
                "num_classes: expected the number of classes of a network with labels, got none"
            )

    @property
    def image_shape(self):
        """(H, W, C) of the network's images."""
        return tuple(self.network.input["x"].shape[1:])

    @property
    def sampling_network(self):
        """The network that samples: the averaged one where there is one."""
        return self.network if self.ema_network is None else self.ema_network

    @property
    def metrics(self):
        return [self.loss_tracker]

    def denoise(self, x, t, label, *, network=None, training=False):
        """Calls a network.

        Args:
            x: float [N, H, W, C], xt.
            t: float [N], t/T.
            label: int [N] in 0..num_classes.
            network: default: the one that samples.
            training: whether BatchNorm uses the batch's statistics.

        Returns:
            float32 [N, H, W, C], the prediction.
        """
        network = self.sampling_network if network is None else network
        values = {"x": (x, tf.float32), "t": (t, tf.float32), "label": (label, tf.int32)}
        inputs = {name: tf.cast(*values[name]) for name in self.inputs_used}
        return network(inputs, training=training)

    def _call_where_due(self, x, t, label):
        """As `denoise`, of images that are all at one time; of a refiner, and of what a copy stands in place of, only what acts is computed."""
        network = self.sampling_network
        if not refining.has_refiner(network):
            return self.denoise(x, t, label)
        base, estimates, _ = refining.parts(network)
        network = refining.refined_alone(network)
        acts = tf.reduce_any(estimates.acts(t))

        def output(network):
            return lambda: tf.cast(self.denoise(x, t, label, network=network), tf.float32)

        return tf.cond(acts, output(network), output(base))

    def call(self, inputs, training=False):
        return self.sampling_network(inputs, training=training)

    def corrupt(self, x0, *, step):
        """The forward process, with the draws of training step `step`.

        Args:
            x0: float32 [N, H, W, C] in [0, 1].
            step: int64 scalar.

        Returns:
            (xt [N, H, W, C], t/T [N], target [N, H, W, C]).
        """
        eps = self._noise(x0, step)
        t = self._times(tf.shape(x0)[0], step)
        alpha, sigma = (look_up(table, t) for table in (self.schedule.alpha, self.schedule.sigma))
        xt = alpha * x0 + sigma * eps
        target = predictions.target(self.prediction, alpha, sigma, x0=x0, eps=eps)
        return xt, tf.cast(t, tf.float32) / self.schedule.num_train_steps, target

    def _noise(self, x0, step):
        key, shape = self._key(step, EPS), tf.shape(x0)[1:]
        return replicas.drawn(
            lambda n: tf.random.stateless_normal(tf.concat([[n], shape], 0), key, alg="philox"),
            tf.shape(x0)[0],
        )

    def _spread(self, count, step):
        return replicas.drawn(lambda n: spread(n, self._key(step, _TIME)), count)

    def _times(self, count, step):
        """A time for each image [N]: float in (0, T] for a continuous schedule, else int in 1..T."""
        steps, key = self.schedule.num_train_steps, self._key(step, _TIME)
        if self.stratified:
            u = self._spread(count, step)
        elif self.schedule.continuous:
            u = replicas.drawn(lambda n: tf.random.stateless_uniform([n], key, alg="philox"), count)
        else:
            return replicas.drawn(
                lambda n: tf.random.stateless_uniform(
                    [n], key, 1, steps + 1, tf.int32, alg="philox"
                ),
                count,
            )
        t = steps * (1.0 - u)  # in (0, T]
        if self.schedule.continuous:
            return t
        return tf.clip_by_value(tf.cast(tf.math.ceil(t), tf.int32), 1, steps)

    def _key(self, step, stream):
        return tf.stack([tf.constant(self.seed, tf.int64), step * _STREAMS + stream])

    def _hide(self, label, *, step):
        key = self._key(step, CLASSES)
        u = replicas.drawn(
            lambda n: tf.random.stateless_uniform([n], key, alg="philox"), tf.shape(label)[0]
        )
        return tf.where(u < self.label_dropout, self.num_classes, label)

    def _unpack(self, data):
        x0, label, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            raise ValueError("fit: expected images and labels, got sample weights too")
        x0 = tf.convert_to_tensor(x0)
        if not x0.dtype.is_floating:
            raise ValueError(
                f"images: expected floats in [0, 1], got {x0.dtype.name}; divide by 255"
            )
        if x0.shape.rank != 4 or not x0.shape[1:].is_compatible_with(self.image_shape):
            raise ValueError(f"images: expected [N, {self.image_shape}], got {tuple(x0.shape)}")
        if "label" not in self.inputs_used:
            return tf.cast(x0, tf.float32), tf.zeros(tf.shape(x0)[:1], tf.int32)
        if label is None:
            raise ValueError("labels: expected one integer an image, got images alone")
        shape = tf.convert_to_tensor(label).shape
        if not any(shape.is_compatible_with(one) for one in ([None], [None, 1])):
            raise ValueError(
                f"labels: expected one integer an image, got {shape[1:]} of them; of one-hot labels take argmax(axis=-1)"
            )
        return tf.cast(x0, tf.float32), tf.cast(tf.reshape(label, [-1]), tf.int32)

    def _loss(self, network, x0, label, *, step, training):
        xt, t, target = self.corrupt(x0, step=step)
        out = self.denoise(xt, t, label, network=network, training=training)
        return tf.reduce_mean(self._weight(t) * tf.square(target - out))

    def _weight(self, t):
        """The weight of the squared error at t/T [N]: [N, 1, 1, 1], or 1."""
        if self.min_snr is None and self.data_std is None:
            return 1.0
        alpha, sigma = self._levels(t)
        if self.data_std is not None:
            return predictions.unit_weight(self.prediction, alpha, sigma, std=self.data_std)
        return predictions.min_snr_weight(
            self.prediction, alpha, sigma, gamma=self.min_snr, minimum=tf.minimum
        )

    def _levels(self, t):
        """alpha and sigma at t/T [N], each [N, 1, 1, 1]."""
        t = t * self.schedule.num_train_steps
        t = t if self.schedule.continuous else tf.cast(tf.round(t), tf.int32)
        return tuple(look_up(table, t) for table in (self.schedule.alpha, self.schedule.sigma))

    def fit(self, x=None, y=None, *args, **kwargs):
        """As Keras's; NumPy arrays that are out of range are refused, and of a dataset Keras isn't asked to shuffle it, which it warns that it can't."""
        if isinstance(x, tf.data.Dataset) and len(args) <= _SHUFFLE:
            kwargs.setdefault("shuffle", False)
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            pipeline.check_arrays(x, y, self.num_classes)
        return super().fit(x, y, *args, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: all is built. Under a strategy Keras would average the devices' images here, which fails where they have unequally many."""

    def make_train_function(self, force=False):
        """As Keras's. The optimizer is built before, or else TensorFlow would trace the step twice: once to find its variables."""
        self.build_optimizer()
        return super().make_train_function(force)

    def build_optimizer(self):
        """Makes the optimizer's variables, where there is one without. A second time Keras's loss scaling would begin anew."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """One optimizer step on a batch: images float [N, H, W, C] in [0, 1], labels int [N]."""
        x0, label = self._unpack(data)
        step = self.step.value
        label = self._hide(label, step=step)
        with tf.GradientTape() as tape:
            loss = self._loss(self.network, x0, label, step=step, training=True)
            # Keras sums the gradients of all devices: each has its share of the batch's mean.
            part = loss * replicas.share(tf.shape(x0)[0])
            scaled = self.optimizer.scale_loss(part)
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(scaled, variables), variables, strict=True)
        )
        self._average(step)
        self.step.assign_add(1)
        self.batch_loss.assign(part)
        self.loss_tracker.update_state(loss, sample_weight=tf.shape(x0)[0])
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        """The loss of the sampling network on a batch, the same draws in every evaluation."""
        x0, label = self._unpack(data)
        # Images seen so far in this evaluation; negative, so that no training step has these draws.
        step = -1 - tf.cast(replicas.total(tf.convert_to_tensor(self.loss_tracker.count)), tf.int64)
        loss = self._loss(self.sampling_network, x0, label, step=step, training=False)
        self.loss_tracker.update_state(loss, sample_weight=tf.shape(x0)[0])
        return {"loss": self.loss_tracker.result()}

    def _average(self, step):
        if self.ema_network is None:
            return
        k = tf.cast(step, tf.float32)
        rate = 1.0 - tf.minimum(self.ema_decay, (1.0 + k) / (10.0 + k))
        for average, weight in zip(self.ema_network.weights, self.network.weights, strict=True):
            average.assign_add(rate * (weight.value - average.value))

    def sample(
        self,
        labels=None,
        *,
        num_images=None,
        sampler=None,
        num_steps=None,
        spacing=None,
        guidance_scale=None,
        guidance_interval=None,
        guidance_rescale=0.0,
        start_from=None,
        strength=1.0,
        keep=None,
        seed=0,
        indices=None,
        to_seed=None,
        fraction=None,
        reader=None,
        redraw=None,
        clip=True,
        callback=None,
        progress=False,
        **options,
    ):
        """Draws images. The noise of an image depends on (seed, label, its number among those of its label) alone.

        Args:
            labels: int [N] in 0..num_classes (num_classes: no class); for a network without classes leave it out.
            num_images: N, in place of labels: images of no class.
            sampler, num_steps, spacing: as `sampling.plan` takes them; `options` are `sharpen` and the sampler's own.
                What isn't given is `self.sampling`'s, where it goes with what is.
            guidance_scale: uncond + scale*(cond - uncond), a number or one for each image [N]: 1 is off.
            guidance_interval: (low, high) of t/T between which guidance acts; (0, 1): everywhere.
            guidance_rescale: how far the spread of guided outputs is brought back, in [0, 1].
            start_from: float [H, W, C] or [N, H, W, C] in [0, 1]: an image that is noised to `strength`*T and drawn
                anew from there (SDEdit).
            strength: in (0, 1]; at 1 nothing of the image is left.
            keep: bool [H, W] or like the image: pixels of `start_from` that stay exactly (inpainting).
            seed: int in [0, 2^63).
            indices: int [N] in place of the counted numbers.
            to_seed, fraction: another seed, and how far [N] each image goes towards what it draws; None: in equal
                steps from the first image of `seed` to the first of `to_seed`.
            reader: callable, images float32 [N, H, W, C] -> probabilities [N, K]: a classifier that says which images are
                drawn again.
            redraw: in [0, 1]: an image whose class has a smaller probability is drawn once more, and the more probable of
                the two stays. 0 is off; None is 0.9 with a reader, but with `callback` or `to_seed`.
            clip: whether every estimate of x0 is clipped to [0, 1].
            callback: is called with a `sampling.Estimate` after each call of the network.
            progress: whether to show a bar.

        Returns:
            float32 array [N, H, W, C] in [0, 1].

        Raises:
            ValueError: where an argument is out of range.
        """
        own = self.sampling
        if guidance_scale is None:
            guidance_scale = own["guidance_scale"]
        if guidance_interval is None:
            guidance_interval = own.get("guidance_interval")
        asked = request.make(
            request.labels_of(labels, num_images, self.num_classes),
            image_shape=self.image_shape,
            num_classes=self.num_classes,
            guidance_scale=guidance_scale,
            seed=seed,
            indices=indices,
            to_seed=to_seed,
            fraction=fraction,
            start_from=start_from,
            keep=keep,
        )
        given = {"sampler": sampler, "num_steps": num_steps, "spacing": spacing, **options}
        given = {name: value for name, value in given.items() if value is not None}
        chosen = samplers.fill_in({**given, "strength": strength}, samplers.of_plan(own))
        plan = samplers.plan(self.schedule, self.prediction, **chosen)
        redraw = redrawing.wanted(
            redraw,
            lambda: reader,
            num_classes=self.num_classes,
            usual=0.0 if reader is None else redrawing.BELOW,
            callback=callback,
            to_seed=to_seed,
            round_up=bool(self.jit_compile),
        )
        return loop.drive(
            self._loop().runner(guidance_rescale=guidance_rescale, clip=clip),
            plan,
            asked,
            weights=guidance.weights(plan, guidance_interval),
            redraw=redraw,
            callback=callback,
            progress=progress,
        )

    def _loop(self):
        if self._sampling_loop is None:
            self._sampling_loop = compiled.SamplingLoop(
                self._call_where_due, null_label=self.num_classes, jit_compile=self.jit_compile
            )
        return self._sampling_loop

    def get_config(self):
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "schedule": self.schedule.to_config(),
            "prediction": self.prediction,
            "label_dropout": self.label_dropout,
            "ema_decay": self.ema_decay,
            "num_classes": self.num_classes,
            "seed": self.seed,
            "min_snr": self.min_snr,
            "data_std": self.data_std,
            "stratified": self.stratified,
            "sampling": self.sampling,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = copy.deepcopy(config)  # Keras empties what it deserializes
        network = keras.saving.deserialize_keras_object(
            config.pop("network"), custom_objects=custom_objects
        )
        return cls(network, schedules.from_config(config.pop("schedule")), **config)


def _input_names(network):
    names = set(network.input) if isinstance(getattr(network, "input", None), dict) else set()
    if not {"x"} <= names <= {"x", "t", "label"}:
        raise ValueError(
            f"network: expected a functional Keras model on a dict of x, t and label, got {sorted(names) or network}"
        )
    return tuple(name for name in ("x", "t", "label") if name in names)
