"""Small diffusion models in Keras: train with `model.fit`, sample with class guidance, judge, ship.

The public names are loaded when they are first used: importing this package loads neither TensorFlow nor Keras.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = "0.1.0"

_HOME = {
    "DiffusionModel": "training",
    "Distillation": "distillation",
    "distill": "distillation",
    "Matching": "matching",
    "match": "matching",
    "Refining": "refining",
    "refine": "refining",
    "from_onnx": "exporting.restore",
    "Backup": "backup",
    "GuidanceDoctor": "callbacks",
    "training_batches": "pipeline",
    "unet": "nn",
    "modulated_unet": "nn",
    "precondition": "nn",
    "Muon": "muon",
    "Schedule": "schedules",
    "linear_schedule": "schedules",
    "cosine_schedule": "schedules",
    "flow_schedule": "schedules",
    "denoiser_schedule": "schedules",
    "table_schedule": "schedules",
}
_OURS = (
    "distillation",
    "matching",
    "rates",
    "refining",
)  # which register the classes that may stand in a saved model
_NEEDED = ("keras", "tensorflow", "onnx", "onnxruntime", "filelock")
__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_home(name), name)
    if "keras" in sys.modules:  # that import may have been the one that loaded it
        _know_our_classes()
    globals()[name] = value
    return value


def _home(name):
    """The module of a public name.

    Raises:
        ModuleNotFoundError: where what it is made with isn't installed; it says what to do.
    """
    try:
        return importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        from keras_diffusion import extras

        said = f"{name}: {extras.missing(error.name, 'train')}"
        raise ModuleNotFoundError(said, name=error.name) from None


def __dir__():
    return sorted(set(globals()) | set(__all__))


def _register():
    """Imports the classes that `keras.models.load_model` looks up by name: Keras itself imports nobody's modules."""
    ours = {f"{__name__}.{name}" for name in ("nn", "training", *_OURS)}
    if not ours & set(sys.modules):  # one of them is loading Keras now
        _know_our_classes()


def _know_our_classes():
    if sys.modules["keras"].config.backend() == "tensorflow":
        for name in _OURS:
            importlib.import_module(f"{__name__}.{name}")


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Calls `_register` once Keras has been imported, for programs that import it after this package.

    It stays until Keras is really loaded: many only look whether it is there.
    """

    looking = False

    def find_spec(self, name, path=None, target=None):
        if name != "keras" or self.looking:
            return None
        self.looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module):
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                load(module)
                _register()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras())
