"""Exported files that a model can be made of again: what they claim and what stands in their graphs, looked at without TensorFlow."""

import pathlib
from typing import NamedTuple

import numpy as np

from keras_diffusion import settings
from keras_diffusion.errors import UserError, is_integer, is_number, shown
from keras_diffusion.runs import DISTILLED
from keras_diffusion.sampling import onnx_model, onnx_session


class Restorable(NamedTuple):
    """A denoiser.onnx.

    Attributes:
        path: of it.
        exported: `onnx_model.Denoiser`.
        asked: `settings.Settings` of the run that it is of.
        nodes: as `constants` finds them.
        refiner: None, or dict of `width` and `below`, as for `nn.with_refiner`.
    """

    path: pathlib.Path
    exported: onnx_model.Denoiser
    asked: settings.Settings
    nodes: list
    refiner: dict | None


def open_file(path):
    """Reads a file that export/convert.py wrote.

    Args:
        path: of a denoiser.onnx; None: the model that comes with the package.

    Returns:
        `Restorable`.

    Raises:
        UserError: where it is another file, or none of a run of fit.py or distill.py.
    """
    import onnx

    path = onnx_model.SHIPPED if path is None else pathlib.Path(path)
    exported = onnx_model.load(path, provider="cpu")
    spec = exported.spec
    if spec.kind != "denoiser":
        raise UserError(f"{path}: expected a denoiser.onnx, got a {spec.kind}.onnx")
    asked = _settings(spec, path)
    graph = onnx.load_from_string(onnx_session.read(path)).graph
    try:
        nodes = constants(graph)
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: expected a graph that convert.py wrote, got: {reason}") from None
    refiner = _refiner(spec, path)
    _check_size(nodes, spec, asked, refiner, path)
    return Restorable(path, exported, asked, nodes, refiner)


def _settings(spec, path):
    told = spec.training
    for name, kind in (("settings", dict), ("data", dict), (DISTILLED, dict)):
        if name in told and not isinstance(told[name], kind):
            raise UserError(f"{path}: expected training.{name} to be an object, got another thing")
    if "settings" not in told:
        raise UserError(
            f"{path}: expected a file of a run of fit.py or distill.py, got one without its settings"
        )
    try:
        return settings.from_json(told["settings"])
    except UserError as error:
        raise UserError(f"{path}: expected the settings of a run of fit.py; {error}") from None


def _refiner(spec, path):
    """What the file says of its network's refiner."""
    told = spec.training.get(DISTILLED, {}).get("refiner")
    if told is None:
        return None
    good = isinstance(told, dict) and set(told) == {"width", "below"}
    good = good and (told["width"] == settings.COPY or _is_width(told["width"]))
    last = spec.make_schedule().num_train_steps
    if not (good and is_number(told["below"]) and 0 < told["below"] <= last):
        raise UserError(
            f"{path}: expected training.{DISTILLED}.refiner to be a width and a time in (0, {last}], got {shown(told)}"
        )
    return told


def _is_width(value):
    return is_integer(value) and 1 <= value <= settings.MOST["width"]


def _check_size(nodes, spec, asked, refiner, path):
    """Whether the file has as many numbers as layers alone that every network of ours has: memory is taken by what is claimed."""
    height, width, _ = spec.image_shape
    needed = (2 * asked.width) ** 2 * (height // 4) * (width // 4)  # at a quarter of the size
    if refiner is not None:
        needed += needed if refiner["width"] == settings.COPY else 9 * refiner["width"] ** 2
    found = sum(array.size for _, arrays in nodes for array in arrays if array is not None)
    behind = "" if refiner is None else f" with a refiner of width {refiner['width']}"
    if found < needed:
        raise UserError(
            f"{path}: expected the {needed} weights and more of a network of width {asked.width}{behind}, got {found}"
        )


def constants(graph):
    """Each node's kind and inputs, as arrays where they are known, on the way from the output back: an order that names and versions don't change.

    Args:
        graph: `onnx.GraphProto`.

    Returns:
        List of (operator, list of arrays or None).

    Raises:
        ValueError, TypeError: where weights aren't stored as `smaller` stores them.
    """
    from onnx import numpy_helper

    from keras_diffusion.exporting import smaller

    parts = list(smaller.graphs(graph))
    known = {w.name: numpy_helper.to_array(w) for part in parts for w in part.initializer}
    makers = {}
    for node in (node for part in parts for node in part.node):
        if not node.output:
            continue
        inputs = [known.get(name) for name in node.input]
        if node.op_type in _UNPACKING and inputs and all(array is not None for array in inputs):
            known[node.output[0]] = _UNPACKING[node.op_type](*inputs)
        makers[node.output[0]] = node
    found, seen, waiting = [], set(known), [out.name for out in graph.output[:1]]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        found.append((node.op_type, [known.get(given) for given in node.input]))
        made = [out.name for a in node.attribute if a.HasField("g") for out in a.g.output]
        waiting += reversed([*node.input, *made])
    return found


def _times(stored, step):
    """Whole numbers times a step for each channel: nothing becomes larger by it."""
    if np.broadcast_shapes(stored.shape, step.shape) != stored.shape:
        raise ValueError(f"weights of {stored.shape} with steps of {step.shape}")
    return stored * step


# How weights that are stored in fewer bits become numbers again.
_UNPACKING = {"Cast": lambda stored: stored.astype(np.float32), "Mul": _times}
