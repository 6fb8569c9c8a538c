"""Exported models in onnxruntime: a network for the NumPy loop, or the whole sampler in one file."""

import functools
import pathlib

import numpy as np

from keras_diffusion import noise
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import (
    guidance,
    loop,
    onnx_classifier,
    portable,
    redrawing,
    request,
    samplers,
)
from keras_diffusion.sampling.onnx_session import Session, metadata

SHIPPED = pathlib.Path(__file__).parent.parent / "models" / "digits.onnx"
READER = "reader.onnx"  # beside a model that is exported with one


def load(path=None, *, reader=None, threads=None, provider="auto"):
    """Opens a file that export/convert.py wrote.

    Args:
        path: denoiser.onnx or sampler.onnx; None is the model that comes with the package, digits by class.
        reader: path of a classifier that scripts/train_judge.py wrote, for `sample`'s `redraw`; None: the one that the model was
            exported with, reader.onnx beside it.
        threads: how many, from 1 on; None: one a core, for many images one a CPU, of those that this process may use.
        provider: "cpu", "cuda", or "auto": CUDA where this onnxruntime has it.

    Returns:
        `Denoiser` or `Sampler`.

    Raises:
        UserError: where there is no such file, onnxruntime can't read it, its spec is missing, foreign or newer, or the
            provider isn't there.
    """
    path = SHIPPED if path is None else pathlib.Path(path)
    opened = Session(path, threads, provider)
    spec = specs.from_json(metadata(opened.whole, specs.KEY), where=path)
    kinds = {"denoiser": Denoiser, "sampler": Sampler}
    if spec.kind not in kinds:
        raise UserError(f"{path}: expected a denoiser.onnx or sampler.onnx, got a {spec.kind}.onnx")
    find = functools.partial(_find_reader, spec, path.parent / READER, threads)
    made = kinds[spec.kind](spec, opened, find_reader=find, reader=_fitting(reader, spec, threads))
    _check_graph(made, path)
    return made


def _fitting(path, spec, threads):
    """The reader of a path for the images of a spec; None of None."""
    return onnx_classifier.reader(
        path, image_shape=spec.image_shape, class_names=spec.class_names, threads=threads
    )


def _find_reader(spec, path, threads):
    """The reader that a model was exported with; None where there was none."""
    if not spec.reader:
        return None
    if not path.is_file():
        raise UserError(
            f"{path}: expected the reader that the model was exported with, found none; put it there, name it with --reader, or say --redraw 0"
        )
    found = _fitting(path, spec, threads)
    if found.sha256 != spec.reader["sha256"]:
        raise UserError(
            f"{path}: expected the reader that the model was exported with, got another; name it with --reader"
        )
    return found


def _check_graph(exported, path):
    """Whether a file's graph is what its spec says."""
    inputs = {value.name: value.shape for value in exported.session.whole.get_inputs()}
    given = set(inputs)
    out = exported.session.whole.get_outputs()
    fits = exported.REQUIRED <= given <= exported.INPUTS
    fits = fits and [value.name for value in out] == [exported.OUTPUT]
    fits = fits and out[0].type == "tensor(float)"
    width = len(portable.COLUMNS)  # of a table of this version
    fits = fits and inputs.get("rows", [None, width])[1:] == [width]
    if not fits or tuple(out[0].shape[1:]) != exported.spec.image_shape:
        raise UserError(
            f"{path}: expected the graph of a {exported.spec.kind} of images {exported.spec.image_shape}, got another; export it again"
        )


class _Exported:
    """What both kinds of file share: the spec, and what of a request it decides."""

    INPUTS: frozenset
    REQUIRED: frozenset
    OF_ALL: frozenset = frozenset()  # inputs that are for all images
    OUTPUT: str

    def __init__(self, spec, session, *, find_reader, reader=None):
        self.spec = spec
        self.session = session
        self._find_reader, self._given = find_reader, reader

    @functools.cached_property
    def reader(self):
        """The `Classifier` that says which images are drawn again; None where there is none.

        Raises:
            UserError: where the one that the model was exported with isn't there, or is another.
        """
        return self._given or self._find_reader()

    @property
    def usual_redraw(self):
        """Below which probability an image is drawn again, where nothing is said; 0: none is."""
        return self.spec.reader.get("redraw", 0.0) if self._given is None else redrawing.BELOW

    def redraw(self, below, reader, **once):
        """The `Redraw` of what is asked, or None; as `redrawing.wanted`, with `self.reader` where none is given.

        Raises:
            UserError: as `reader`.
        """
        return redrawing.wanted(
            below,
            lambda: self._own_reader() if reader is None else reader,
            num_classes=self.spec.num_classes,
            usual=self.usual_redraw if reader is None else redrawing.BELOW,
            **once,
        )

    def _own_reader(self):
        return None if self.reader is None else self.reader.probabilities

    def plan(self, **asked):
        """The tableau of what is asked, the spec's defaults in place of what is None; as `samplers.plan`."""
        given = {name: value for name, value in asked.items() if value is not None}
        chosen = samplers.fill_in(given, samplers.of_plan(self.spec.defaults))
        return samplers.plan(self.spec.make_schedule(), self.spec.prediction, **chosen)

    def run(self, given):
        """The output of one call of onnxruntime."""
        return self.session.call([self.OUTPUT], given, of_all=self.OF_ALL)[0]

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

    def __init__(self, spec, session, **options):
        super().__init__(spec, session, **options)
        self._inputs = [given.name for given in session.whole.get_inputs()]

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
        reader=None,
        redraw=None,
        to_seed=None,
        **asked,
    ):
        """Draws images; arguments as `DiffusionModel.sample`, what is None is the spec's, and `self.reader` the reader.

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
        redraw = self.redraw(redraw, reader, callback=callback, to_seed=to_seed)
        whole = self.request(labels, guidance_scale=guidance_scale, to_seed=to_seed, **asked)
        part = whole.part(request.shard(len(whole), *shard))
        run = loop.runner(
            self.network,
            null_label=self.spec.num_classes,
            guidance_rescale=guidance_rescale,
            clip=clip,
        )
        weights = self.weights(plan, guidance_interval)
        return loop.drive(
            run,
            plan,
            part,
            weights=weights,
            redraw=redraw,
            callback=callback,
            progress=progress,
            out=out,
        )


class Sampler(_Exported):
    """A sampler.onnx: the whole sampler in one call of onnxruntime."""

    INPUTS = REQUIRED = frozenset({"label", "index", "seed", "guidance_scale", "rows"})
    OF_ALL = frozenset({"seed", "rows"})
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
        reader=None,
        redraw=None,
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
        redraw = self.redraw(redraw, reader)
        indices = request.numbers(asked.labels, indices)
        chosen = request.shard(len(asked), *shard)
        images = (out or loop.array)((chosen.stop - chosen.start, *self.spec.image_shape))
        draw = functools.partial(self._draw, asked, indices, rows)
        for begin in range(chosen.start, chosen.stop, request.MAX_IMAGES):
            part = np.arange(begin, min(begin + request.MAX_IMAGES, chosen.stop))
            drawn = draw(part, seed)
            if redraw is not None:
                drawn = redraw.better(
                    drawn,
                    asked.labels[part],
                    lambda some, part=part: draw(part[some], noise.again(seed)),
                )
            images[begin - chosen.start : begin - chosen.start + len(part)] = drawn
        return images

    def _draw(self, asked, indices, rows, part, seed):
        """One call of onnxruntime for some of the images."""
        return self.run(
            {
                "label": asked.labels[part].astype(np.int32),
                "index": indices[part],
                "seed": np.array(seed, np.int64),
                "guidance_scale": asked.scale[part],
                "rows": rows,
            }
        )


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
