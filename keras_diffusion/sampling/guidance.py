"""Classifier-free guidance: a wrapper around a network; no sampler knows of it.

Reference: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", with scale = 1 + w.
"""


def guided(network, *, scale, null_label, concat, split):
    """A network that returns `uncond + scale*(cond - uncond)`.

    Args:
        network: callable (x, t, label) -> out; x [N, H, W, C], t [N], label [N].
        scale: guidance scale: 0 is unconditional, 1 is off, more pushes towards the class; or one for each image,
            [N, 1, 1, 1].
        null_label: the label that means no class.
        concat, split: join two arrays along the batch; split one into two halves.

    Returns:
        Callable like `network`. Scales 0 and 1 cost one branch; otherwise both go as one doubled batch.
    """
    if isinstance(scale, int | float):
        if scale == 1:
            return network
        if scale == 0:
            return lambda x, t, label: network(x, t, label * 0 + null_label)

    def both(x, t, label):
        nothing = label * 0 + null_label
        out = network(concat(x, x), concat(t, t), concat(label, nothing))
        cond, uncond = split(out)
        return uncond + scale * (cond - uncond)

    return both
