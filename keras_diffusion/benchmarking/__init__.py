"""Measures speed, start and memory, side by side with the course's network written plainly in PyTorch.

Each variant (a side, a way to run it, a precision) is a process of its own that waits until it is told to do some steps, so that variants take
turns without sharing cores, thread pools or memory peaks. Nothing here but `ours`, `peer`, `peer_unet`, `table` and `plot` loads TensorFlow, PyTorch, rich or matplotlib.
"""
