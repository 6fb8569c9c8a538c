"""Refining: a network behind a student's last call, a small one or its copy, is trained, alone, as `Matching` trains the whole."""

import keras
import tensorflow as tf

from keras_diffusion import matching, replicas
from keras_diffusion.few_steps import check_draws, sampling_copy
from keras_diffusion.matching import Matching
from keras_diffusion.nn.refining import (
    COPY,
    WIDTH,
    has_refiner,
    parts,
    refined_image,
    width_of,
    with_refiner,
)


@keras.saving.register_keras_serializable(package="keras_diffusion")
class Refining(Matching):
    """Brings what a student's refiner makes of its images to real ones' features; used as `Matching`.

    Of the network (`nn.with_refiner`) the refiner alone is trained, which acts in the last call. So a noise of the pool is
    drawn once, and x before the last call is kept, and for a small refiner the output of that call too: pool * H * W * C * 4
    or 8 bytes, saved with the model. A step costs what refiner (of a copy: one call) and features cost. All else is as in `Matching`.

    Args:
        network: of `nn.with_refiner`, for the schedule, prediction and last time of this model; what was there before the refiner is
            held (`trainable` becomes False).
        schedule, features, times, pool, kwargs: as for `Matching`, which `through` and `label_dropout` aren't asked of: the gradient goes through the refiner.

    Raises:
        ValueError: where the network has no refiner, or one that doesn't act in the last call alone; where a value is out of range.

    Reference: as `Matching`; dos Santos et al. 2019, "Learning Implicit Generative Models by Matching Perceptual Features".
    """

    def __init__(self, network, schedule, *, features, times, pool=None, **kwargs):
        if not has_refiner(network):
            raise ValueError(
                f"network: expected one of nn.with_refiner, got {getattr(network, 'name', network)} without a refiner"
            )
        base, estimates, _ = parts(network)
        last = [t for t in times if t <= estimates.below]
        if len(last) != 1:
            raise ValueError(
                f"times: expected the last alone to be at most {estimates.below:g}, where the refiner acts, got {[float(t) for t in times]}"
            )
        super().__init__(network, schedule, features=features, times=times, pool=pool, **kwargs)
        base.trainable = False
        shape = (self.pool, *self.image_shape)
        # What the refiner sees of a noise: x before the last call and, but for a copy, what that puts out.
        self._kept = [
            self.add_weight(
                shape=shape, dtype="float32", initializer="zeros", trainable=False, name=name
            )
            for name in (("x",) if width_of(network) == COPY else ("x", "out"))
        ]

    def _drawn(self, done):
        """As `Matching`'s; what the refiner sees is kept."""
        found, *seen = self._of_all_blocks(done)
        for kept, values in zip(self._kept, seen, strict=True):
            kept.assign(values)
        return found

    def _block_from(self, begin):
        """(features [N, F], what the refiner sees, [N, H, W, C] each) as `Matching`'s."""
        noise, label = self._noises(begin, self._block), self._classes(begin, self._block)
        base, last = parts(self.sampling_network)[0], len(self._plan.t) - 1
        x, _ = self._calls(base, noise, tf.zeros_like(noise), label, range(last))
        seen = [x]
        if len(self._kept) > 1:
            seen.append(self._call(base, last, x, label))
        images = self._refined(self.sampling_network, label, *seen)
        return self._joint(images, label), *seen

    def _draw_next(self, network, label, count):
        rows = replicas.drawn(self._rows, count)
        seen = [tf.gather(kept.value, rows) for kept in self._kept]
        return self._refined(network, label, *seen)

    def _refined(self, network, label, x, out=None):
        """The images that the last call ends in, refined: [N, H, W, C]."""
        last = len(self._plan.t) - 1
        inputs = {"x": x, "t": self._time(last, x), "label": label}
        inputs = {name: inputs[name] for name in self.inputs_used}
        return refined_image(network, inputs, out)


def refine(
    model, features, *, width=None, num_steps=None, spacing=None, ema_decay=0.98, seed=0, **options
):
    """A `Refining` of a trained model, whose student begins as this, with a refiner that changes nothing yet, or with its own.

    Args:
        model: `DiffusionModel` that draws from noise; a student, or any other.
        features: as for `Matching`.
        width: of the refiner, or "copy", as for `nn.with_refiner`; None: 24, or that of the model's own.
        num_steps, spacing: as for `match`.
        ema_decay: of `Refining`.
        seed: of every draw, and of a new refiner's first weights.
        options: further arguments of `Refining`.

    Returns:
        `Refining`, to be adapted, compiled and trained.

    Raises:
        ValueError: where the model is a one-step denoiser, has a refiner of another width or for other times, or an argument is out of range.
    """
    check_draws(model)
    grid = matching.grid_of(model, num_steps, spacing)
    network = sampling_copy(model)
    if not has_refiner(network):
        network = with_refiner(
            network,
            model.schedule,
            prediction=model.prediction,
            below=grid[-1],
            width=WIDTH if width is None else width,
            num_classes=model.num_classes,
            seed=seed,
        )
    elif width not in (None, width_of(network)):
        raise ValueError(
            f"width: expected {width_of(network)}, that of the refiner that the model has, got {width}"
        )
    return matching.of_model(
        Refining,
        network,
        model,
        features=features,
        times=grid,
        ema_decay=ema_decay,
        label_dropout=0.0,
        seed=seed,
        **options,
    )
