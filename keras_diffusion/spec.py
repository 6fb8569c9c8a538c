"""What a trained model must remember to be sampled, as JSON: it travels inside every exported file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from keras_diffusion import predictions, schedules
from keras_diffusion.errors import UserError, is_integer, is_number, shown

KEY = "keras_diffusion"  # of the metadata of an ONNX file
FORMAT = 1
KINDS = ("denoiser", "sampler", "sampler_noise")
PRECISIONS = ("float32", "float16", "int8")
ALSO = (*PRECISIONS[1:], "tflite")  # what a run is exported to on request
GUIDANCE = "uncond + scale*(cond - uncond); 1 is off"


def _is_text(value):
    return isinstance(value, str)


def is_finite(value):
    """Whether it is a number that float32 holds."""
    return is_number(value) and abs(value) <= MAX_NUMBER


def are_finite(value):
    """Whether it is a list of such numbers."""
    return isinstance(value, list | tuple) and all(map(is_finite, value))


# What a file may have a default for, each with its check; `sample` checks the values.
DEFAULTS: dict[str, Callable[[Any], bool]] = {
    "sampler": _is_text,
    "num_steps": is_integer,
    "spacing": lambda value: _is_text(value) or are_finite(value),
    "variance": _is_text,
    "eta": is_finite,
    "sharpen": is_finite,
    "guidance_scale": is_finite,
    "guidance_interval": are_finite,
}


def check_defaults(defaults):
    """Whether these are arguments of `sample` that a model can have defaults for, each of its type.

    Raises:
        ValueError: where one isn't.
    """
    for name, value in defaults.items():
        _expect(name in DEFAULTS, "defaults", f"some of {tuple(DEFAULTS)}", name)
        _expect(DEFAULTS[name](value), f"defaults: {name}", "another type", value)


# Bounds on what a file may claim, checked before memory is taken.
MAX_TEXT = 2**24
MAX_NUMBER = 3e38  # of a default: float32's
MAX_TRAIN_STEPS = 100_000
MAX_CLASSES = 1_000_000
MAX_PIXELS = 2**24


@dataclass(frozen=True, eq=False)
class Spec:
    """What an exported file says of itself.

    Attributes:
        kind: "denoiser" (one call of the network), "sampler" (from labels and a seed to images) or "sampler_noise" (from
            labels and noise).
        schedule: as `Schedule.to_config` describes it.
        prediction: "eps", "x0", "v" or "flow".
        image_shape: (H, W, C).
        num_classes: K, which is also the label of no class; 0 without classes.
        class_names: K of them.
        defaults: arguments of `sample` that hold where none is given.
        weights_sha256: of the network's weights, whatever the file's form.
        precision: in which the weights are stored.
        data_range: of the images.
        guidance: what a guidance scale means.
        reader: of a file that is drawn with one: `sha256` of reader.onnx beside it, and `redraw`, below which probability of its
            class an image is drawn once more.
        training: the run: settings, data with name, count and SHA-256.
        versions: of the packages that made the file.
    """

    kind: str
    schedule: dict
    prediction: str
    image_shape: tuple
    num_classes: int
    class_names: tuple = ()
    defaults: dict = field(default_factory=dict)
    weights_sha256: str = ""
    precision: str = "float32"
    data_range: tuple = (0.0, 1.0)
    guidance: str = GUIDANCE
    reader: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, value in (
            ("kind", KINDS),
            ("prediction", predictions.NAMES),
            ("precision", PRECISIONS),
        ):
            _expect(getattr(self, name) in value, name, f"one of {value}", getattr(self, name))
        _expect(self.guidance == GUIDANCE, "guidance", repr(GUIDANCE), self.guidance)
        _expect(tuple(self.data_range) == (0, 1), "data_range", "[0, 1]", self.data_range)
        _check_sizes(self)
        check_defaults(self.defaults)
        _check_reader(self.reader)
        names = self.class_names
        _expect(all(map(_is_text, names)), "class_names", "texts", names)
        for name in ("image_shape", "class_names", "data_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def make_schedule(self):
        """The `Schedule`."""
        return schedules.from_config(self.schedule)

    def of_kind(self, kind, **changes):
        """The same for another file."""
        return replace(self, kind=kind, **changes)

    def to_json(self):
        """The spec as text; `from_json` is the way back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)


def from_json(text, *, where):
    """The spec that `Spec.to_json` wrote.

    Args:
        text: str, or None where a file has none.
        where: what the text comes from, for messages.

    Raises:
        UserError: where it is missing, of another program, of a newer format, or says what can't be.
    """
    if not text:
        raise UserError(
            f"{where}: expected a file that export/convert.py wrote, got one without its spec"
        )
    try:
        _expect(len(text) <= MAX_TEXT, "spec", f"{MAX_TEXT} characters at most", len(text))
        values: Any = json.loads(text, parse_constant=_refuse_constant)
        _expect(isinstance(values, dict), "spec", "a JSON object", type(values).__name__)
        _check_format(values.pop("format", None))
        known: dict[str, Any] = {f.name: f.type for f in fields(Spec)}
        for name, value in values.items():
            _expect(name in known, "spec", "no other fields", name)
            kind = list if known[name] is tuple else known[name]
            good = isinstance(value, kind) and not isinstance(value, bool)
            _expect(good, name, f"a {kind.__name__}", value)
        spec = Spec(**values)
        with np.errstate(all="ignore"):  # of numbers that make no schedule, which is said then
            spec.make_schedule()
    except (TypeError, ValueError, KeyError, RecursionError, OverflowError) as error:
        raise UserError(f"{where}: the spec can't be read; {error}") from None
    return spec


def weights_sha256(weights):
    """SHA-256 over a network's weights: their shapes and float32 bytes, in its order."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(f"{weight.shape}\n".encode())
        digest.update(np.ascontiguousarray(weight, "<f4").tobytes())
    return digest.hexdigest()


def _check_format(found):
    if is_integer(found) and found > FORMAT:
        raise ValueError(
            f"format: expected {FORMAT}, got {found}; a newer keras-diffusion wrote it: upgrade"
        )
    _expect(is_integer(found) and found == FORMAT, "format", FORMAT, found)


def _check_sizes(spec):
    shape = spec.image_shape
    sides = len(shape) == 3 and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    _expect(sides and min(shape) >= 1, "image_shape", "[H, W, C]", shape)
    pixels = shape[0] * shape[1] * shape[2]
    _expect(pixels <= MAX_PIXELS, "image_shape", f"{MAX_PIXELS} pixels at most", pixels)
    classes = spec.num_classes
    _expect(0 <= classes <= MAX_CLASSES, "num_classes", f"0..{MAX_CLASSES}", classes)
    named = len(spec.class_names)
    _expect(named in (0, classes), "class_names", f"{classes} names", named)
    table = spec.schedule.get("alpha")
    steps = len(table) - 1 if isinstance(table, list) else spec.schedule.get("num_train_steps", 1)
    good = isinstance(steps, int) and 1 <= steps <= MAX_TRAIN_STEPS
    _expect(good, "schedule", f"1..{MAX_TRAIN_STEPS} steps", steps)


def _check_reader(reader):
    if not reader:
        return
    sha256, redraw = reader.get("sha256"), reader.get("redraw")
    good = set(reader) == {"sha256", "redraw"} and _is_text(sha256)
    good = good and is_number(redraw) and 0 <= redraw <= 1
    _expect(good, "reader", "sha256 and redraw in [0, 1]", reader)


def _refuse_constant(name):
    """NaN and infinities, which JSON doesn't have and Python reads all the same."""
    raise ValueError(f"spec: expected finite numbers, got {name}")


def _expect(good, name, expected, got):
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {shown(got)}")
