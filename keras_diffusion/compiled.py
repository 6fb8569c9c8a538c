"""The sampling loop as one TensorFlow function: no Python between steps, XLA on or off."""

import tensorflow as tf

from keras_diffusion.sampling import guidance, tableau

_OPS = guidance.Ops(
    concat=lambda a, b: tf.concat([a, b], 0),
    split=lambda x: tf.split(x, 2),
    spread=lambda x: tf.math.reduce_std(x, axis=(1, 2, 3), keepdims=True),
    where=tf.where,
)


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

    def runner(self, *, guidance_rescale=0.0, clip=True):
        """`sampling.loop.drive`'s `run`: (plan, x, x0, asked, *, weights, noise) -> (x, x0), on tensors."""

        def run(plan, x, x0, asked, *, weights, noise):
            branches = self._branches(asked, weights, guidance_rescale)
            function = self._function(branches, guidance_rescale, clip, asked.keep is not None)
            known = () if asked.keep is None else (tf.constant(asked.keep), asked.image)
            return function(
                tf.convert_to_tensor(x, tf.float32),
                tf.convert_to_tensor(x0, tf.float32),
                tf.constant(asked.labels, tf.int32),
                tf.constant(asked.scale[:, None, None, None], tf.float32),
                tf.constant(weights, tf.float32),
                tf.constant(plan.t / plan.num_train_steps, tf.float32),
                tf.constant(plan.rows, tf.float32),
                tf.constant(noise, tf.float32),
                *known,
            )

        return run

    def _branches(self, asked, weights, rescale):
        """Which branches these rows need; each answer is a graph of its own."""
        if (asked.scale == 1).all() or not weights.any():
            return "cond"
        if not weights.all():
            return "some"
        alone = ((asked.scale == 0) | (asked.labels == self.null_label)).all()
        return "uncond" if alone and not rescale else "both"

    def _function(self, branches, rescale, clip, keeps):
        key = (branches, rescale, clip, keeps)
        if key not in self._functions:
            network = _call(self.network, self.null_label, branches, rescale)
            bounded = clip_unit if clip else tf.identity

            def run(x, x0, label, scale, weights, t, rows, noise, keep=None, image=None):
                def limit(x0):
                    return tf.where(keep, image, bounded(x0)) if keeps else bounded(x0)

                def row(i, x, x0):
                    times = tf.fill(tf.shape(x)[:1], t[i])
                    out = network(x, times, label, guidance.scale_now(scale, weights[i]))
                    columns = tableau.Row(*tf.unstack(rows[i], num=len(tableau.Row._fields)))
                    return i + 1, *tableau.step(x, x0, out, noise[i], columns, limit, clip_unit)

                count = tf.shape(rows)[0]
                _, x, x0 = tf.while_loop(lambda i, *_: i < count, row, (0, x, x0))
                return x, x0

            self._functions[key] = tf.function(
                run, jit_compile=self.jit_compile, reduce_retracing=True
            )
        return self._functions[key]


def _call(network, null_label, branches, rescale):
    """The network as a callable (x, t, label, scale) -> out."""
    both = guidance.guided(network, null_label=null_label, ops=_OPS, rescale=rescale)
    alone = guidance.unconditional(network, null_label=null_label)

    def some(x, t, label, scale):
        guides = tf.reduce_any(scale != 1)
        return tf.cond(guides, lambda: both(x, t, label, scale), lambda: network(x, t, label))

    return {
        "cond": lambda x, t, label, scale: network(x, t, label),
        "uncond": lambda x, t, label, scale: alone(x, t, label),
        "both": both,
        "some": some,
    }[branches]


def clip_unit(x):
    """Clips to [0, 1], the range of images."""
    return tf.clip_by_value(x, 0.0, 1.0)
