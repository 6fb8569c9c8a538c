"""Our side: training and drawing with Keras, and TensorFlow's matrix product."""

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import nn, pipeline, schedules
from keras_diffusion.benchmarking import clock, flops, variants
from keras_diffusion.errors import UserError
from keras_diffusion.training import DiffusionModel

_XLA = {"auto": "auto", "graph": False, "xla": True}


def device():
    """cpu or gpu, and the name of it."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return {"kind": "cpu", "name": "CPU"}
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return {"kind": "gpu", "name": name}


def memory():
    """The most memory of the GPU that was in use at once, in bytes; None without one."""
    if device()["kind"] == "cpu":
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def set_precision(precision):
    """Makes the networks that are built from now on compute in a precision."""
    if precision == "tf32" and device()["kind"] == "cpu":
        raise UserError("--precisions: expected tf32 on a GPU only, got a machine without one")
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    mixed = precision if precision.startswith("mixed") else "float32"
    keras.config.set_dtype_policy(mixed)


def _model(variant):
    """The course's class-conditioned DDPM, without averaged weights, as the course has none."""
    set_precision(variant.precision)
    keras.utils.set_random_seed(0)
    network = nn.unet(width=variant.width, num_classes=variants.NUM_CLASSES)
    schedule = schedules.linear_schedule(variants.NUM_TRAIN_STEPS)
    model = DiffusionModel(network, schedule, ema_decay=None)
    adam = keras.optimizers.Adam(variants.LEARNING_RATE, epsilon=1e-8)
    model.compile(optimizer=adam, jit_compile=_XLA[variant.mode])
    return model


class Train:
    """Steps of training, as `model.fit` does them, from the pipeline that fit.py has."""

    def __init__(self, variant):
        images, labels = variants.made_up_digits()
        self.model = _model(variant)
        batches = pipeline.training_batches(images, labels, batch_size=variant.batch_size, seed=0)
        self._batches = iter(batches)
        self.model.make_train_function()
        self.says = {
            "flops": flops.TRAINING * variant.batch_size * flops.forward(self.model.network),
            "parameters": sum(int(np.prod(w.shape)) for w in self.model.trainable_variables),
        }

    def run(self, count):
        """Seconds of each of `count` steps."""
        return clock.timed(self.step, count)

    def step(self):
        """One step; the loss of its batch, when all of its work is done."""
        self.model.train_function(self._batches)
        tf.test.experimental.sync_devices()
        return float(self.model.batch_loss.numpy())


class Draw:
    """The course's way to draw: DDPM, guidance 5, so two branches a step."""

    def __init__(self, variant):
        self.variant = variant
        self.model = _model(variant)
        self._labels = np.arange(variant.batch_size) % variants.NUM_CLASSES
        calls = 2 * variant.num_steps * variant.batch_size
        self.says = {"flops": calls * flops.forward(self.model.network)}

    def run(self, count):
        """Seconds of each of `count` batches of digits: of some of the steps, times what is missing."""
        whole = self.variant.num_steps / self.variant.measured_steps
        return [whole * seconds for seconds in clock.timed(self.draw, count)]

    def draw(self):
        """float32 [N, 28, 28, 1], of `measured_steps` steps."""
        return self.model.sample(
            self._labels,
            sampler="ddpm",
            num_steps=self.variant.measured_steps,
            guidance_scale=variants.GUIDANCE_SCALE,
        )


class Product:
    """Products of square matrices, the most that the machine can do."""

    def __init__(self, variant):
        set_precision(variant.precision)
        size = variants.PRODUCT_SIZE[device()["kind"]]
        kind = tf.bfloat16 if variant.precision == "mixed_bfloat16" else tf.float32
        a, b = (
            tf.cast(tf.random.stateless_normal([size, size], [0, seed]), kind) for seed in range(2)
        )
        self._product = tf.function(lambda: tf.linalg.matmul(a, b))
        self.says = {"flops": 2 * size**3}

    def run(self, count):
        """Seconds of each of `count` products."""
        return clock.timed(self._one, count)

    def _one(self):
        self._product()
        tf.test.experimental.sync_devices()


TASKS = {"train": Train, "draw": Draw, "product": Product}
