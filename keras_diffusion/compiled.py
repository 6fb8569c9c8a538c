"""The sampling loop as one TensorFlow function: no Python between steps, XLA on or off."""

import tensorflow as tf

from keras_diffusion.sampling import guidance, tableau


class SamplingLoop:
    """Runs tableaus around one network, compiled once for each kind of loop (with XLA: for each shape).

    Args:
        network: callable (x, t, label) -> out on tensors.
        null_label: the label that means no class.
        jit_compile: whether XLA compiles the loop.
    """

    def __init__(self, network, *, null_label, jit_compile):
        self.network = network
        self.null_label = null_label
        self.jit_compile = jit_compile
        self._functions = {}

    def __call__(self, plan, *, x, label, scale, noise, clip=True, trajectory=False):
        """Runs a tableau.

        Args:
            plan: `Tableau`.
            x: float32 [N, H, W, C], the initial noise.
            label: int [N].
            scale: guidance scale.
            noise: float32 [S, N, H, W, C], or [S, 1, 1, 1, 1] for a plan without noise.
            clip: whether every estimate of x0 is clipped to [0, 1].
            trajectory: whether to return the estimates of x0 as well.

        Returns:
            Tensor [N, H, W, C], or (that, estimates [S, N, H, W, C]).
        """
        # Scales 0 and 1 are other graphs (one branch); all the rest are one graph with the scale as its input.
        branch = scale if scale in (0, 1) else None
        run = self._function(branch, clip, trajectory)
        images, estimates = run(
            tf.constant(x, tf.float32),
            tf.constant(label, tf.int32),
            tf.constant(scale, tf.float32),
            tf.constant(plan.t / plan.num_train_steps, tf.float32),
            tf.constant(plan.rows, tf.float32),
            tf.constant(noise, tf.float32),
        )
        return (images, estimates) if trajectory else images

    def _function(self, branch, clip, trajectory):
        key = (branch, clip, trajectory)
        if key not in self._functions:

            def run(x, label, scale, t, rows, noise):
                network = guidance.guided(
                    self.network,
                    scale=scale if branch is None else branch,
                    null_label=self.null_label,
                    concat=lambda a, b: tf.concat([a, b], 0),
                    split=lambda out: tf.split(out, 2),
                )
                return _loop(network, x, label, t, rows, noise, clip, trajectory)

            self._functions[key] = tf.function(
                run, jit_compile=self.jit_compile, reduce_retracing=True
            )
        return self._functions[key]


def _loop(network, x, label, t, rows, noise, clip, trajectory):
    count = tf.shape(rows)[0]
    kept = tf.TensorArray(tf.float32, size=count if trajectory else 0, element_shape=x.shape)
    limit = clip_unit if clip else tf.identity

    def body(i, x, x0, kept):
        times = tf.fill(tf.shape(x)[:1], t[i])
        row = tableau.Row(*tf.unstack(rows[i], num=len(tableau.Row._fields)))
        x, x0 = tableau.step(x, x0, network(x, times, label), noise[i], row, limit)
        return i + 1, x, x0, kept.write(i, x0) if trajectory else kept

    def more(i, *_):
        return i < count

    _, x, _, kept = tf.while_loop(more, body, (0, x, tf.zeros_like(x), kept))
    return clip_unit(x), kept.stack() if trajectory else tf.zeros([0])


def clip_unit(x):
    """Clips to [0, 1], the range of images."""
    return tf.clip_by_value(x, 0.0, 1.0)
