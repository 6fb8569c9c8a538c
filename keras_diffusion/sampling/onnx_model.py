"""Exported models in onnxruntime: a network for the NumPy loop, or the whole sampler in one file."""

import pathlib

import numpy as np

from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import guidance, loop, portable, request, samplers

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
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
    text = opened.get_modelmeta().custom_metadata_map.get(specs.KEY)
    spec = specs.from_json(text, where=path)
    kinds = {"denoiser": Denoiser, "sampler": Sampler}
    if spec.kind not in kinds:
        raise UserError(f"{path}: expected a denoiser.onnx or sampler.onnx, got a {spec.kind}.onnx")
    return kinds[spec.kind](spec, opened)


def session(path, threads, provider):
    if not path.is_file():
        raise UserError(f"{path}: expected an ONNX file, found none")
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
    options.log_severity_level = 3  # errors are raised; the rest is for developers
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=wanted)
    except Exception as error:  # onnxruntime's own classes, which differ from version to version
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: expected a file that onnxruntime can load, got: {reason[:200]}"
        ) from None


class _Exported:
    """What both kinds of file share: the spec, and what of a request it decides."""

    def __init__(self, spec, session):
        self.spec = spec
        self.session = session

    def plan(self, **asked):
        """The tableau of what is asked, the spec's defaults in place of what is None; as `samplers.plan`."""
        given = {name: value for name, value in asked.items() if value is not None}
        defaults = {k: v for k, v in self.spec.defaults.items() if not k.startswith("guidance")}
        if given.get("sampler", defaults.get("sampler")) != defaults.get("sampler"):
            defaults = {k: v for k, v in defaults.items() if k not in ("variance", "eta")}
        own_times = not isinstance(given.get("spacing", ""), str)
        if own_times or given.get("strength", 1.0) < 1:  # as many steps as there are
            defaults.pop("num_steps", None)
        return samplers.plan(
            self.spec.make_schedule(), self.spec.prediction, **{**defaults, **given}
        )

    def request(self, labels, *, guidance_scale=None, **asked):
        """A checked `Request`."""
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

    def __init__(self, spec, session):
        super().__init__(spec, session)
        self._inputs = [given.name for given in session.get_inputs()]

    def network(self, x, t, label):
        """One call: x float32 [N, H, W, C], t float32 [N] = t/T, label int32 [N] -> out like x."""
        given = {"x": x, "t": t, "label": label}
        return self.session.run(["out"], {name: given[name] for name in self._inputs})[0]

    def sample(
        self,
        labels,
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

    def sample(
        self,
        labels,
        *,
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
        **others,
    ):
        """Draws images, as `Denoiser.sample` does, but for what a fixed graph can't do: `others` must be their defaults."""
        _refuse(others)
        plan = self.plan(
            sampler=sampler, num_steps=num_steps, spacing=spacing, variance=variance, eta=eta
        )
        rows = portable.table(plan, self.weights(plan, guidance_interval))
        asked = self.request(labels, guidance_scale=guidance_scale, seed=seed, indices=indices)
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
            images[begin - chosen.start : part.stop - chosen.start] = self.session.run(
                ["images"], given
            )[0]
        return images


_FIXED = {"strength": 1.0, "guidance_rescale": 0.0, "clip": True, "progress": False}


def _refuse(others):
    for name, value in others.items():
        if value is not None and not (name in _FIXED and value == _FIXED[name]):
            raise UserError(
                f"{name}: expected none with a sampler.onnx, got one; use the denoiser.onnx"
            )
