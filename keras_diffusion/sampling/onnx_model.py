"""Exported models in onnxruntime: a network for the NumPy loop, or the whole sampler in one file."""

import os
import pathlib

import numpy as np

from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import (
    guidance,
    loop,
    onnx_bytes,
    portable,
    request,
    samplers,
)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MAX_BYTES = 2**31 - 1  # of a file: Protocol Buffers hold no more
SHIPPED = pathlib.Path(__file__).parent.parent / "models" / "digits.onnx"


def load(path=None, *, threads=None, provider="auto"):
    """Opens a file that export/convert.py wrote.

    Args:
        path: denoiser.onnx or sampler.onnx; None is the model that comes with the package, digits by class.
        threads: number of threads; None leaves it to onnxruntime.
        provider: "cpu", "cuda", or "auto": CUDA where this onnxruntime has it.

    Returns:
        `Denoiser` or `Sampler`.

    Raises:
        UserError: where there is no such file, onnxruntime can't read it, its spec is missing, foreign or newer, or the
            provider isn't there.
    """
    path = SHIPPED if path is None else pathlib.Path(path)
    opened = session(path, threads, provider)
    spec = specs.from_json(metadata(opened, specs.KEY), where=path)
    kinds = {"denoiser": Denoiser, "sampler": Sampler}
    if spec.kind not in kinds:
        raise UserError(f"{path}: expected a denoiser.onnx or sampler.onnx, got a {spec.kind}.onnx")
    made = kinds[spec.kind](spec, opened)
    _check_graph(made, path)
    return made


def _check_graph(exported, path):
    """Whether a file's graph is what its spec says."""
    inputs = {value.name: value.shape for value in exported.session.get_inputs()}
    given = set(inputs)
    out = exported.session.get_outputs()
    fits = exported.REQUIRED <= given <= exported.INPUTS
    fits = fits and [value.name for value in out] == [exported.OUTPUT]
    fits = fits and out[0].type == "tensor(float)"
    width = len(portable.COLUMNS)  # of a table of this version
    fits = fits and inputs.get("rows", [None, width])[1:] == [width]
    if not fits or tuple(out[0].shape[1:]) != exported.spec.image_shape:
        raise UserError(
            f"{path}: expected the graph of a {exported.spec.kind} of images {exported.spec.image_shape}, got another; export it again"
        )


def session(path, threads, provider):
    """onnxruntime's session of a file; a UserError, as `load` says, where there is none to be had."""
    if not os.path.isfile(path):
        found = "a folder; name a file in it" if os.path.isdir(path) else "none"
        raise UserError(f"{path}: expected an ONNX file, found {found}")
    data = _read(path)
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted = [PROVIDERS["cpu"]]
    if provider == "cuda" and PROVIDERS["cuda"] not in there:
        raise UserError(
            "provider: expected an onnxruntime with CUDA, got one without: install onnxruntime-gpu"
        )
    if provider != "cpu" and PROVIDERS["cuda"] in there:
        wanted.insert(0, PROVIDERS["cuda"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too; the rest is for developers
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        opened = onnxruntime.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # onnxruntime's own classes, which differ from version to version
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: expected a file that onnxruntime can load, got: {reason[:200]}"
        ) from None
    if provider == "cuda" and PROVIDERS["cuda"] not in opened.get_providers():
        raise UserError(
            "provider: expected CUDA to start, got the CPU: look at its libraries and the driver, or take cpu"
        )
    return opened


def _read(path):
    """The bytes of a file whose weights all stand in it: what they name would be read wherever it is."""
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")
    data = path.read_bytes()
    try:
        external = onnx_bytes.has_external_data(data)
    except ValueError as error:
        raise UserError(
            f"{path}: expected a file that onnxruntime can load, got another ({error})"
        ) from None
    if external:
        raise UserError(
            f"{path}: expected a file that holds its weights itself, got one that names other files"
        )
    return data


def metadata(opened, key):
    """What a file says of itself under a key; None where it says nothing that is text."""
    try:
        return opened.get_modelmeta().custom_metadata_map.get(key)
    except UnicodeDecodeError:
        return None


def call(opened, outputs, given):
    """One call of onnxruntime: the arrays of these outputs.

    Raises:
        UserError: where it can't be run, or puts out what is no number.
    """
    try:
        found = opened.run(outputs, given)
    except Exception as error:  # onnxruntime's own classes
        reason = " ".join(str(error).split())
        raise UserError(f"onnxruntime could not run the model: {reason[:200]}") from None
    if not all(np.isfinite(array).all() for array in found):
        raise UserError("model: expected finite numbers from it, got others; export it again")
    return found


class _Exported:
    """What both kinds of file share: the spec, and what of a request it decides."""

    INPUTS: frozenset
    REQUIRED: frozenset
    OUTPUT: str

    def __init__(self, spec, session):
        self.spec = spec
        self.session = session

    def plan(self, **asked):
        """The tableau of what is asked, the spec's defaults in place of what is None; as `samplers.plan`."""
        given = {name: value for name, value in asked.items() if value is not None}
        chosen = samplers.fill_in(given, samplers.of_plan(self.spec.defaults))
        return samplers.plan(self.spec.make_schedule(), self.spec.prediction, **chosen)

    def run(self, given):
        """The output of one call of onnxruntime."""
        return call(self.session, [self.OUTPUT], given)[0]

    def request(self, labels, *, num_images=None, guidance_scale=None, **asked):
        """A checked `Request`."""
        labels = request.labels_of(labels, num_images, self.spec.num_classes)
        if guidance_scale is None:
            guidance_scale = self.spec.defaults.get("guidance_scale", 1.0)
        return request.make(
            labels,
            image_shape=self.spec.image_shape,
            num_classes=self.spec.num_classes,
            guidance_scale=guidance_scale,
            **asked,
        )

    def weights(self, plan, interval):
        """How far guidance acts in each row."""
        if interval is None:
            interval = self.spec.defaults.get("guidance_interval")
        return guidance.weights(plan, interval)


class Denoiser(_Exported):
    """A denoiser.onnx: `network(x, t, label) -> out`, and `sample` around it."""

    INPUTS = frozenset({"x", "t", "label"})
    REQUIRED = frozenset({"x"})
    OUTPUT = "out"

    def __init__(self, spec, session):
        super().__init__(spec, session)
        self._inputs = [given.name for given in session.get_inputs()]

    def network(self, x, t, label):
        """One call: x float32 [N, H, W, C], t float32 [N] = t/T, label int32 [N] -> out like x."""
        given = {"x": x, "t": t, "label": label}
        return self.run({name: given[name] for name in self._inputs})

    def sample(
        self,
        labels=None,
        *,
        sampler=None,
        num_steps=None,
        spacing=None,
        strength=1.0,
        guidance_scale=None,
        guidance_interval=None,
        guidance_rescale=0.0,
        clip=True,
        callback=None,
        progress=False,
        shard=(1, 1),
        out=None,
        variance=None,
        eta=None,
        sharpen=None,
        **asked,
    ):
        """Draws images; arguments as `DiffusionModel.sample`, what is None is the spec's.

        Args:
            labels: int [N] in 0..num_classes (num_classes: no class).
            shard: (k, n): the k-th of n parts of the request, k from 1.
            out: as `loop.drive` takes it.

        Returns:
            float32 [N, H, W, C] in [0, 1].
        """
        plan = self.plan(
            sampler=sampler,
            num_steps=num_steps,
            spacing=spacing,
            strength=strength,
            variance=variance,
            eta=eta,
            sharpen=sharpen,
        )
        whole = self.request(labels, guidance_scale=guidance_scale, **asked)
        part = whole.part(request.shard(len(whole), *shard))
        run = loop.runner(
            self.network,
            null_label=self.spec.num_classes,
            guidance_rescale=guidance_rescale,
            clip=clip,
        )
        weights = self.weights(plan, guidance_interval)
        return loop.drive(
            run, plan, part, weights=weights, callback=callback, progress=progress, out=out
        )


class Sampler(_Exported):
    """A sampler.onnx: the whole sampler in one call of onnxruntime."""

    INPUTS = REQUIRED = frozenset({"label", "index", "seed", "guidance_scale", "rows"})
    OUTPUT = "images"

    def sample(
        self,
        labels=None,
        *,
        num_images=None,
        sampler=None,
        num_steps=None,
        spacing=None,
        guidance_scale=None,
        guidance_interval=None,
        seed=0,
        indices=None,
        shard=(1, 1),
        out=None,
        variance=None,
        eta=None,
        sharpen=None,
        **others,
    ):
        """Draws images, as `Denoiser.sample` does, but for what a fixed graph can't do: `others` must be their defaults."""
        _refuse(others)
        plan = self.plan(
            sampler=sampler,
            num_steps=num_steps,
            spacing=spacing,
            variance=variance,
            eta=eta,
            sharpen=sharpen,
        )
        rows = portable.table(plan, self.weights(plan, guidance_interval))
        asked = self.request(
            labels,
            num_images=num_images,
            guidance_scale=guidance_scale,
            seed=seed,
            indices=indices,
        )
        indices = request.numbers(asked.labels, indices)
        chosen = request.shard(len(asked), *shard)
        images = (out or loop.array)((chosen.stop - chosen.start, *self.spec.image_shape))
        for begin in range(chosen.start, chosen.stop, request.MAX_IMAGES):
            part = slice(begin, min(begin + request.MAX_IMAGES, chosen.stop))
            given = {
                "label": asked.labels[part].astype(np.int32),
                "index": indices[part],
                "seed": np.array(seed, np.int64),
                "guidance_scale": asked.scale[part],
                "rows": rows,
            }
            images[begin - chosen.start : part.stop - chosen.start] = self.run(given)
        return images


_FIXED = {
    "strength": 1.0,
    "guidance_rescale": 0.0,
    "clip": True,
    "progress": False,
    **dict.fromkeys(("start_from", "keep", "to_seed", "fraction", "callback")),
}


def _refuse(others):
    for name, value in others.items():
        if name not in _FIXED:
            raise TypeError(f"sample() got an unexpected keyword argument {name!r}")
        if value is not None and (_FIXED[name] is None or value != _FIXED[name]):
            raise UserError(
                f"{name}: expected none with a sampler.onnx, got one; use the denoiser.onnx"
            )
