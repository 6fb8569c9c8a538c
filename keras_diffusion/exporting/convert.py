"""A finished run as files that draw without TensorFlow: all of them, checked and compared, or none."""

import json
import shutil

import numpy as np
import onnx

from keras_diffusion import spec as specs
from keras_diffusion import versions
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import denoiser, lite, parity, sampler, saved_model, smaller
from keras_diffusion.files import replacing_folder
from keras_diffusion.sampling import (
    guidance,
    onnx_classifier,
    onnx_model,
    portable,
    redrawing,
    samplers,
)

_PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "tf2onnx", "onnxruntime")
# What smaller weights may change, as mean absolute differences of pixels in [0, 1].
MEAN_TOLERANCE = 0.005
WORST_TOLERANCE = 0.05
_TRIED = 4  # images of each class that a smaller file is tried on


def convert(
    model,
    folder,
    *,
    training,
    class_names=(),
    defaults=None,
    reader=None,
    redraw=None,
    also=(),
    say=print,
):
    """Exports a model.

    Args:
        model: `DiffusionModel` that draws from noise.
        folder: path. Made, or replaced whole if it holds an earlier export.
        training: dict, what the run says of itself, for the spec.
        class_names: K of them.
        defaults: dict of arguments of `sample` that hold where none is given; None takes `default_sampling`.
        reader: path of a classifier that scripts/train_judge.py wrote: the ONNX files draw once more what it doubts; it is copied
            beside them. None: every image is drawn once.
        redraw: below which probability of its class, in [0, 1]; None: `redrawing.BELOW`.
        also: of `spec.ALSO`: "float16" and "int8", ONNX files with smaller weights; "tflite", one call of the network.
        say: function of a line.

    Returns:
        The certificate, as in parity.json.

    Raises:
        UserError: where the network can't be converted, or a file differs too much from the model. Nothing is written.
    """
    if model.schedule.num_train_steps == 1:
        raise UserError("model: expected one that draws from noise, got a one-step denoiser")
    reader = onnx_classifier.reader(reader, image_shape=model.image_shape, class_names=class_names)
    network = in_float32(model.sampling_network)
    defaults = default_sampling(model) if defaults is None else defaults
    spec = specs.Spec(
        kind="denoiser",
        schedule=model.schedule.to_config(),
        prediction=model.prediction,
        image_shape=model.image_shape,
        num_classes=model.num_classes,
        class_names=class_names,
        defaults=defaults,
        weights_sha256=specs.weights_sha256(network.get_weights()),
        reader=_describe(reader, redraw),
        training=training,
        versions=versions.of(_PACKAGES),
    )
    rows = _rows(model, defaults)
    with replacing_folder(folder, made="parity.json") as beside:
        if reader is not None:
            shutil.copyfile(reader.path, beside / onnx_model.READER)
        _write(beside, network, model, spec, rows)
        say("comparing the files with the Keras model")
        certificate = parity.certify(model, network, beside, defaults)
        certificate["weights_sha256"] = spec.weights_sha256
        small = [name for name in specs.PRECISIONS if name in also]
        certificate["smaller"] = [_smaller(beside, precision) for precision in small]
        if "tflite" in also:
            lite.write(beside / "denoiser.tflite", saved_model.denoiser(network, model))
            certificate["tflite"] = parity.certify_lite(model, network, beside)
        certificate["bytes"] = {
            str(path.relative_to(beside)): path.stat().st_size
            for path in sorted(beside.rglob("*"))
            if path.is_file()
        }
        text = json.dumps(certificate, indent=2)
        (beside / "parity.json").write_text(text + "\n", encoding="utf-8")
    return certificate


def _describe(reader, redraw):
    """What the spec says of a reader."""
    if reader is None:
        if redraw is not None:
            raise ValueError(f"redraw: expected reader as well, got {redraw} alone")
        return {}
    return {"sha256": reader.sha256, "redraw": redrawing.BELOW if redraw is None else redraw}


def default_sampling(model, given=None):
    """What `sample` does where nothing is said: as `DiffusionModel.sample`, but for what is given.

    Args:
        model: `DiffusionModel`.
        given: dict of arguments of `sample`.
    """
    return samplers.fill_in(given or {}, model.sampling)


def _rows(model, defaults):
    plan = parity.default_plan(model, defaults)
    return portable.table(plan, guidance.weights(plan, defaults.get("guidance_interval")))


def _write(folder, network, model, spec, rows):
    saved_model.write(str(folder / "saved_model"), network, model, rows)
    call = denoiser.to_onnx(network, denoiser.signature(model))
    onnx.helper.set_model_props(call, {specs.KEY: spec.to_json()})
    onnx.save(call, folder / "denoiser.onnx")
    for kind in ("sampler", "sampler_noise"):
        made = sampler.to_onnx(call, spec.of_kind(kind), rows, own_noise=kind == "sampler_noise")
        onnx.save(made, folder / f"{kind}.onnx")


def _smaller(folder, precision):
    """Writes the ONNX files with smaller weights; what that changes in images drawn by the defaults."""
    reference = onnx_model.load(folder / "denoiser.onnx", provider="cpu")
    for kind in specs.KINDS:
        made = smaller.shrink(onnx.load(folder / f"{kind}.onnx"), precision)
        onnx.helper.set_model_props(
            made, {specs.KEY: reference.spec.of_kind(kind, precision=precision).to_json()}
        )
        onnx.save(made, folder / f"{kind}.{precision}.onnx")
    compared = parity.certify_small(folder, precision)
    small = onnx_model.load(folder / f"denoiser.{precision}.onnx", provider="cpu")
    labels = np.repeat(np.arange(max(1, reference.spec.num_classes)), _TRIED)
    difference = np.abs(reference.sample(labels, redraw=0.0) - small.sample(labels, redraw=0.0))
    found = {
        "precision": precision,
        "images": len(labels),
        "mean": float(difference.mean()),
        "mean_of_worst_image": float(difference.mean(axis=(1, 2, 3)).max()),
        "largest": float(difference.max()),
        **compared,
    }
    good = found["mean"] <= MEAN_TOLERANCE and found["mean_of_worst_image"] <= WORST_TOLERANCE
    if not good:
        raise UserError(
            f"{precision}: expected pixels that change by {MEAN_TOLERANCE:g} in the mean and {WORST_TOLERANCE:g} in the worst image at most, "
            f"got {found['mean']:.2g} and {found['mean_of_worst_image']:.2g}; leave it out"
        )
    return found


def in_float32(network):
    """The network computed in float32, whatever precision it was trained with; itself where it is already.

    onnxruntime and TensorFlow's converters don't take a graph of mixed precision.
    """
    config = network.get_config()
    plain = _plain_policies(config)
    if plain == config:
        return network
    rebuilt = type(network).from_config(plain)
    rebuilt.set_weights(network.get_weights())
    return rebuilt


def _plain_policies(config):
    """A configuration with every dtype policy that is "mixed_..." made float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        plain = {key: _plain_policies(value) for key, value in config.items()}
        if str(plain.get("dtype")).startswith("mixed_"):
            plain["dtype"] = "float32"
        return plain
    if isinstance(config, list | tuple):
        return type(config)(_plain_policies(value) for value in config)
    return config
