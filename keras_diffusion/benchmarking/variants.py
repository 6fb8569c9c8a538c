"""What is measured: a side, its task, how it runs, in which precision."""

import dataclasses
from dataclasses import dataclass

OURS, PEER, SHIPPED = "ours", "PyTorch", "onnxruntime"
PRECISIONS = ("float32", "tf32", "mixed_bfloat16")
OUR_MODES = ("auto", "graph", "xla")
PEER_MODES = ("eager", "channels_last", "compile", "compile+channels_last")
NUM_TRAIN_STEPS = 300  # of the course
GUIDANCE_SCALE = 5.0
LEARNING_RATE = 1e-3
LABEL_DROPOUT = 0.1
NUM_CLASSES = 10
IMAGE_SHAPE = (28, 28, 1)
NUM_IMAGES = 60_000  # as many as MNIST has
PRODUCT_SIZE = {
    "cpu": 2048,
    "gpu": 8192,
}  # of the square matrices whose product is the machine's peak


@dataclass(frozen=True)
class Variant:
    """Tells a worker what to do.

    Attributes:
        side: OURS, PEER or SHIPPED.
        task: "train": steps of training; "draw": a batch of digits; "product": products of matrices.
        mode: of OUR_MODES or PEER_MODES.
        precision: of PRECISIONS.
        width: D.
        batch_size: images in a step of training, or digits drawn at once.
        num_steps: steps of the sampler; None: the model's own.
        measured_steps: how many of `num_steps` are really done; their time is multiplied.
        model: file of SHIPPED; None: the package's.
        threads: of SHIPPED; the others learn it from the environment.
    """

    side: str
    task: str
    mode: str = ""
    precision: str = "float32"
    width: int = 64
    batch_size: int = 128
    num_steps: int | None = None
    measured_steps: int | None = None
    model: str | None = None
    threads: int | None = None

    @property
    def name(self):
        """What tables call it, unique among the variants of one measurement."""
        return ", ".join(word for word in (self.side, self.task, self.mode, self.precision) if word)

    def to_json(self):
        """As a dict."""
        return dataclasses.asdict(self)


def made_up_digits(count=NUM_IMAGES):
    """Pixels of no meaning, since speed doesn't depend on it: images uint8 [N, 28, 28, 1], labels int64 [N]."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *IMAGE_SHAPE), np.uint8)
    return images, rng.integers(0, NUM_CLASSES, count)
