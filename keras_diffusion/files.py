"""Files that are replaced whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil

from keras_diffusion.errors import UserError

MAX_JSON = 2**24  # bytes: far more than ours have


def read_json(path):
    """What a JSON file holds.

    Raises:
        UserError: where it can't be read, is larger than any of ours, or isn't JSON.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as error:
        raise UserError(
            f"{path}: expected a file that can be read, got: {error.strerror}"
        ) from None
    if len(data) > MAX_JSON:
        raise UserError(f"{path}: expected at most {MAX_JSON} bytes, got more")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}: expected JSON, got something else in line {line}") from None


def beside(path):
    """The path at which a file is written before it takes the place of `path`."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextlib.contextmanager
def replacing(path):
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, else it is removed. An OSError names `path`."""
    written = beside(path)
    try:
        yield written
        os.replace(written, path)
    except OSError as error:
        if str(error.filename) == str(written):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # where it couldn't be made either
            written.unlink()


def check_replaceable(path, *, made, only=None):
    """Whether a folder is new, empty or ours to replace.

    Args:
        path: the folder.
        made: a file that every such folder has: one that lacks it is somebody else's.
        only: names of everything that we put there: nothing else may be lost with it; None where anything may be.

    Raises:
        UserError: where it isn't.
    """
    path = pathlib.Path(path)
    wanted = f"{path}: expected a new folder, or one with {made} in it to replace"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # a link that leads to itself, a name too long
        raise UserError(f"{wanted}, got: {error.strerror}") from None
    if not path.is_dir():
        raise UserError(f"{wanted}, got a file")
    names = {entry.name for entry in path.iterdir()}
    if names and made not in names:
        raise UserError(f"{wanted}, got a folder with {sorted(names)[0]} in it")
    others = sorted(names - set(only or names))
    if others:
        raise UserError(
            f"{path}: expected nothing in it that would be lost, got {others[0]}; move it away or name another folder"
        )


@contextlib.contextmanager
def replacing_folder(path, *, made, only=None):
    """A folder beside `path` to fill; it takes the place of `path` when the block ends well, else it is removed.

    Args:
        path: the folder that is wanted, with the folders above it made too.
        made, only: as `check_replaceable` takes them.

    Raises:
        UserError: where `path` is there and somebody else's, or can't be written.
    """
    check_replaceable(path, made=made, only=only)
    path = pathlib.Path(path).resolve()  # of a link, what it stands for is replaced
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    before = path.with_name(f".{path.name}.{os.getpid()}.before")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{path}: expected a folder that can be written ({error.strerror})"
        ) from None
    try:
        yield beside
        _swap(beside, path, before)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(beside, path, before):
    """Puts a folder in place of another, which goes away only when that is done."""
    replaced = path.exists()
    if replaced:
        os.replace(path, before)
    try:
        os.replace(beside, path)
    except BaseException:
        if replaced:
            os.replace(before, path)
        raise
    shutil.rmtree(before, ignore_errors=True)
