"""Estimates of x0 on the way from noise to image, kept for an animation."""

import numpy as np


class Frames:
    """A callback for `sample`: keeps one estimate in so many and always the last.

    Args:
        count: N, images of the request, over all its chunks.
        most: about how many frames to keep.
    """

    def __init__(self, count, *, most=40):
        self.count, self.most, self.kept = count, most, {}

    def __call__(self, estimate):
        every = max(1, estimate.num_rows // self.most)
        if estimate.row % every == 0 or estimate.row == estimate.num_rows - 1:
            shape = (self.count, *estimate.x0.shape[1:])
            frame = self.kept.setdefault(estimate.row, np.zeros(shape, np.float32))
            frame[estimate.images] = np.clip(estimate.x0, 0, 1)

    def all(self):
        """float32 [F, N, H, W, C] in [0, 1]."""
        return np.stack(list(self.kept.values()))
