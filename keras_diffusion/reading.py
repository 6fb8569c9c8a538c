"""Trains a reader: a classifier of noisy images, which tells how much the class of xt is in doubt."""

import keras
import tensorflow as tf

from keras_diffusion import building, pipeline
from keras_diffusion.nn import reader
from keras_diffusion.nn.tables import look_up, spread

BATCH_SIZE = 128
LEARNING_RATE = 2e-3


class _Reading(keras.Model):
    """Trains a reader on `xt = alpha*x0 + sigma*eps` at times spread evenly over the batch; draws as in `DiffusionModel`."""

    def __init__(self, network, schedule, *, seed):
        super().__init__()
        self.network, self.schedule, self.seed = network, schedule, seed
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step"
        )
        self.built = True

    def train_step(self, data):
        x0, label = data
        key = tf.stack([tf.constant(self.seed, tf.int64), 2 * self.step.value])
        u = spread(tf.shape(x0)[0], key)
        t = self.schedule.num_train_steps * (1.0 - u)
        eps = tf.random.stateless_normal(tf.shape(x0), key + [0, 1], alg="philox")
        alpha, sigma = (look_up(table, t) for table in (self.schedule.alpha, self.schedule.sigma))
        given = {"x": alpha * x0 + sigma * eps, "t": t / self.schedule.num_train_steps}
        with tf.GradientTape() as tape:
            logits = self.network(given, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
            )
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.step.assign_add(1)
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, -1, tf.int32) == label, tf.float32))
        return {"loss": loss, "accuracy": right}


def train(data, schedule, *, epochs, seed=0):
    """A trained reader.

    Args:
        data: `data.ImageData`.
        schedule: `Schedule`.
        epochs: passes over the training images; the rate rises to LEARNING_RATE and falls to 0 as a cosine.
        seed: of the weights and every draw.

    Returns:
        `keras.Model` as from `nn.reader`.
    """
    keras.utils.set_random_seed(seed)
    network = reader(num_classes=data.num_classes, image_shape=data.image_shape)
    model = _Reading(network, schedule, seed=seed)
    steps = pipeline.steps_per_epoch(len(data.x_train), BATCH_SIZE)
    rate = building.cosine_rate(LEARNING_RATE, epochs * steps)
    model.compile(optimizer=building.adam(rate))
    batches = pipeline.training_batches(
        data.x_train, data.y_train, batch_size=BATCH_SIZE, seed=seed
    )
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    return network
