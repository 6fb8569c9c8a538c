"""The pictures of a page: files beside it, or inside it."""

import base64
import io
import mimetypes
import pathlib
import shutil
from dataclasses import dataclass
from urllib.parse import quote

from PIL import Image, ImageSequence


@dataclass(frozen=True)
class Shown:
    """What an <img> needs: `src`, and `width` and `height` in CSS pixels."""

    src: str
    width: int
    height: int


class Files:
    """Pictures as files beside the page.

    Args:
        folder: the page's folder.
    """

    linked = True  # each picture of the page leads to itself, in full size

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def put(self, path, name):
        """The address of a copy of `path` called `name`."""
        target = self._target(name)
        if not target.exists():
            shutil.copyfile(path, target)
        return quote(name)

    def put_bytes(self, data, name):
        """The address of a file called `name` that holds `data`."""
        self._target(name).write_bytes(data)
        return quote(name)

    def _target(self, name):
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


class Inline:
    """Pictures inside the page, as data: addresses."""

    linked = False  # browsers don't open such addresses

    def put(self, path, name):
        """The file as an address."""
        return self.put_bytes(pathlib.Path(path).read_bytes(), name)

    def put_bytes(self, data, name):
        """The bytes as an address."""
        kind, _ = mimetypes.guess_type(name)
        return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def shown(store, run, picture):
    """A picture of a run, for the page; the run's PNGs have two pixels for each of CSS's."""
    density = 1 if picture.path.suffix == ".gif" else 2
    width, height = (round(size / density) for size in picture.size)
    return Shown(store.put(picture.path, f"figures/{run.name}/{picture.path.name}"), width, height)


def still(store, run, picture):
    """The last frame of an animation as a PNG: for paper, and for those who want nothing to move."""
    with Image.open(picture.path) as image:
        for frame in ImageSequence.Iterator(image):
            last = frame.convert("RGB")
    file = io.BytesIO()
    last.save(file, "PNG", optimize=True)
    name = f"figures/{run.name}/{picture.path.stem}_last.png"
    return Shown(store.put_bytes(file.getvalue(), name), *last.size)
