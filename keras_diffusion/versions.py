"""Which versions a result was made with."""

import platform
import sys
from importlib import metadata

import keras_diffusion


def of(packages):
    """Versions of this package, of Python and of those packages that are here.

    Args:
        packages: names, as they are imported or, where that is another, installed by.

    Returns:
        dict from names to versions. What is loaded says its own: its distribution may have another name (onnxruntime-gpu).
    """
    found = {"keras_diffusion": keras_diffusion.__version__, "python": platform.python_version()}
    for package in packages:
        loaded = getattr(sys.modules.get(package), "__version__", None)
        try:
            found[package] = loaded or metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
