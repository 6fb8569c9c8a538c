"""Copies that tensorflow-datasets has prepared, and its downloads."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_diffusion.data.files import IDX_FILES
from keras_diffusion.data.images import KEYS, DataError, ImageData, brief, checked

SERVERS = {  # from where tensorflow-datasets downloads
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
}
PROBE_SECONDS = 6.0
DOWNLOAD_SECONDS = 600.0


class Unavailable(Exception):
    """Something that isn't to be had on this machine; str() says why."""


def prepared(name: str, class_names: tuple[str, ...]) -> ImageData | None:
    """The newest copy that tensorflow-datasets has prepared in its folder; None without one.

    Its files are looked for by name: asked for a copy that isn't there, it goes to the network.

    Raises:
        Unavailable: tensorflow-datasets doesn't import.
        DataError: the copy is damaged.
    """
    root = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    finished = (
        pathlib.Path(root).expanduser().glob(f"{name}/[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
    )
    folders = [file.parent for file in finished]
    if not folders:
        return None
    newest = max(folders, key=lambda folder: list(map(int, re.findall(r"\d+", folder.name))))
    try:
        values = _read_prepared(newest)
    except ImportError as error:
        raise Unavailable(f"tensorflow-datasets doesn't import, {brief(error)}") from error
    except Exception as error:  # whatever it raises is about files that something else wrote
        raise DataError(
            f"expected a whole copy of {name} in {newest}, got {brief(error)}: delete that folder"
        ) from error
    arrays = dict(zip(KEYS, values, strict=True))
    return checked(name, "tensorflow-datasets, prepared copy", arrays, class_names)


def _read_prepared(folder: pathlib.Path) -> list[np.ndarray]:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    # One file after the other: neither the hash nor the training may depend on how threads race.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    parts = (
        builder.as_dataset(split=split, batch_size=-1, read_config=config)
        for split in ("train", "test")
    )
    return [np.asarray(part[key]) for part in parts for key in ("image", "label")]


def downloaded(name: str, class_names: tuple[str, ...], notify: Callable[[str], Any]) -> ImageData:
    """A copy that tensorflow-datasets downloads and prepares now.

    Raises:
        Unavailable: it isn't installed, or the download didn't succeed.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise Unavailable("tensorflow-datasets isn't installed")
    if not _reachable(f"{SERVERS[name]}/{IDX_FILES[0]}-ubyte.gz"):
        raise Unavailable("there is no prepared copy, and its server can't be reached")
    notify(f"downloading {name} with tensorflow-datasets, for {DOWNLOAD_SECONDS:.0f} s at most")
    _download(name)
    data = prepared(name, class_names)
    if data is None:
        raise Unavailable("the download left no files")
    return dataclasses.replace(data, source="tensorflow-datasets, downloaded")


def _download(name: str) -> None:
    """Downloads in a child process, since one can be ended: by itself it retries for minutes."""
    code = "import sys, tensorflow_datasets as t; t.builder(sys.argv[1]).download_and_prepare()"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        subprocess.run(
            [sys.executable, "-c", code, name],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the download took more than {DOWNLOAD_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unavailable(f"the download failed, {brief(last)}") from error


def _reachable(url: str) -> bool:
    """Whether a gzip file answers at `url`, within PROBE_SECONDS.

    In a thread, since looking up a host's name has no timeout. The first two bytes tell the file
    from the page that a captive network sends.
    """
    import urllib.request  # it brings ssl and half of email: not for those who have a FILE.npz

    answers = []

    def ask():
        try:
            request = urllib.request.Request(url, headers={"Range": "bytes=0-1"})
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as reply:
                answers.append(reply.read(2) == b"\x1f\x8b")
        except Exception:  # no network, refused, a malformed reply or proxy: no answer
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers == [True]
