"""Muon for convolutional networks."""

import re

import keras


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Muon(keras.optimizers.Muon):
    """Muon on the kernels of convolutions between feature maps, Adam on every other weight.

    `keras.optimizers.Muon` leaves convolutions to Adam. Here a kernel is read as a matrix of [kernel height * width *
    one channel count, the other], and its step is near to the matrix with orthonormal columns or rows that is nearest to
    its momentum: directions of small gradient move almost as far as those of large (down to a hundredth of the largest
    or so: five steps of Newton and Schulz don't lift what is smaller). Dense layers, and kernels of fewer than
    `narrowest` channels on a side, as those that read or write a grey or RGB image, are Adam's. A kernel's step has a
    root mean square of about 0.2 times the rate, as Adam's has after its first steps: a rate that suits Adam suits both.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        epsilon: of Adam; 1e-8 is PyTorch's.
        narrowest: a kernel with fewer channels than this on a side is Adam's.
        **options: of `keras.optimizers.Muon`; weight decay is none unless given.

    Example:
        >>> model.compile(optimizer=kd.Muon(2e-3))

    Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
    Scalable for LLM Training" (the step's size).
    """

    def __init__(self, learning_rate=1e-3, *, epsilon=1e-8, narrowest=4, **options):
        options = {"weight_decay": None, "adam_weight_decay": None, "name": "muon", **options}
        super().__init__(learning_rate, epsilon=epsilon, **options)
        self.narrowest = narrowest

    def _should_use_adamw(self, variable):
        if len(variable.shape) != 4 or min(variable.shape[2:]) < self.narrowest:
            return True
        return any(re.search(keyword, variable.path) for keyword in self.exclude_layers)

    def _muon_update_step(self, gradient, variable, lr, m):
        cast = keras.ops.cast
        gradient = cast(gradient, m.dtype)
        self.assign(m, self.momentum * m + gradient)
        g = gradient + self.momentum * m if self.nesterov else m
        matrix = keras.ops.reshape(cast(g, "float32"), (-1, variable.shape[-1]))
        step = self.lr_adjust(self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        step = cast(lr, "float32") * keras.ops.reshape(step, variable.shape)
        self.assign_sub(variable, cast(step, variable.dtype))

    def get_config(self):
        return {**super().get_config(), "narrowest": self.narrowest}
