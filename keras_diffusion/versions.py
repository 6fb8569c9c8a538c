"""Which versions a result was made with."""

import contextlib
import platform
import sys
from importlib import metadata

import keras_diffusion


def of(packages):
    """Versions of this package, of Python and of those packages that are here.

    Args:
        packages: names, as they are imported or, where that is another, installed by.

    Returns:
        dict from names to versions.
    """
    found = {"keras_diffusion": keras_diffusion.__version__, "python": platform.python_version()}
    for package in packages:
        version = getattr(sys.modules.get(package), "__version__", None) or _installed(package)
        if version is not None:
            found[package] = version
    return found


def _installed(package):
    """The version of the distribution of a name, or of one that brings a module of that name (onnxruntime-gpu has onnxruntime); None where there is none."""
    names = [package, *metadata.packages_distributions().get(package, [])]
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None
