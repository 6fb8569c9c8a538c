"""Our side without TensorFlow: an exported model in onnxruntime, drawing in its own default way."""

import numpy as np

from keras_diffusion.benchmarking import clock
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import onnx_model, onnx_session


def device():
    """cpu or gpu, and the name of it."""
    import onnxruntime

    found = onnx_session.PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    return {"kind": "gpu", "name": "CUDA"} if found else {"kind": "cpu", "name": "CPU"}


def memory():
    """onnxruntime doesn't say what it has of a GPU."""


class Draw:
    """Batches of digits, of each class as many."""

    def __init__(self, variant):
        self.variant = variant
        self.model = onnx_model.load(variant.model, threads=variant.threads)
        classes = self.model.spec.num_classes
        # Label-major, as programs ask for them; without classes all are of none.
        self._labels = np.sort(np.arange(variant.batch_size) % max(classes, 1))
        plan = self._checked(lambda: self.model.plan(**self._steps()))
        self.says = {"num_steps": len(plan), "kind": self.model.spec.kind}

    def _steps(self):
        """A number of steps of one's own takes the place of the model's spacing too."""
        if self.variant.num_steps is None:
            return {}
        return {"num_steps": self.variant.num_steps, "spacing": "uniform"}

    def _checked(self, action):
        try:
            return action()
        except ValueError as error:
            raise UserError(str(error)) from None

    def run(self, count):
        """Seconds of each of `count` batches of digits."""
        return clock.timed(self.draw, count)

    def draw(self):
        """float32 [N, H, W, C] in [0, 1]."""
        return self._checked(lambda: self.model.sample(self._labels, **self._steps()))


TASKS = {"draw": Draw}
