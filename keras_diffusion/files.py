"""Files that are replaced whole or not at all."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def replacing(path):
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, else it is removed."""
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
