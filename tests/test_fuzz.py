"""Whole files, damaged at random: each is read, or refused in words of ours, in bounded time and memory.

The examples are the same each time. KERAS_DIFFUSION_FUZZ=10 tries ten times as many.
"""

import contextlib
import copy
import csv
import gzip
import importlib.util
import io
import json
import os
import pathlib
import resource
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_diffusion import pictures, runs
from keras_diffusion import settings as run_settings
from keras_diffusion import spec as specs
from keras_diffusion.data import files
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import sweep
from keras_diffusion.exporting import restorable
from keras_diffusion.report import found, page, words
from keras_diffusion.sampling import onnx_bytes, onnx_classifier, onnx_model, samplers
from keras_diffusion.schedules import linear_schedule

MORE = int(os.environ.get("KERAS_DIFFUSION_FUZZ", "1"))
SECONDS = 5.0  # of processor time, for one file of a few kilobytes
MEMORY = 2**29  # bytes that one test may add to the process's largest size


def fuzz(examples, **strategies):
    """A test of so many examples, the same each time."""
    chosen = settings(
        max_examples=examples * MORE,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: chosen(given(**strategies)(test))


@contextlib.contextmanager
def refused(*others):
    """What is done to a file: it ends, or with a UserError (or one of `others`), soon, and says nothing else."""
    began = time.process_time()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except (UserError, *others) as error:
            assert str(error)
    loud = [w for w in said if not issubclass(w.category, (DeprecationWarning, ResourceWarning))]
    assert not loud, [str(w.message) for w in loud]
    assert time.process_time() - began < SECONDS


@pytest.fixture(autouse=True)
def in_bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Writes bytes to a file of that name; its path."""
    folder = tmp_path_factory.mktemp("fuzz")

    def write(name, data):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write


# --- how files are damaged


@st.composite
def damaged(draw, whole):
    """Bytes with some of them changed, cut out, put in, repeated or made 0 or 255."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from((1, 1, 2, 4, 8, 64, 10**6))))
        part = data[begin:end]
        kind = draw(st.sampled_from(("change", "cut", "put", "repeat", "zeros", "ones")))
        if kind == "change":
            part = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in part[:8]) + part[8:]
        elif kind == "cut":
            part = b""
        elif kind == "put":
            part = draw(st.binary(min_size=1, max_size=8)) + part
        elif kind == "repeat":
            part = part[:1000] * draw(st.integers(2, 50))
        else:
            part = bytes([255 * (kind == "ones")]) * min(len(part), 1000)
        data[begin:end] = part
    return bytes(data)


ODD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2, 10, 255, 2**31, 2**63, 10**30, 10**400, -(10**400)),
        *(0.5, -0.0, 1e-320, 1e308, -1e308, float("inf"), float("nan")),
        *("", "x", "\ud800", "\x1b[31m", "<script>alert(1)</script>", "../../etc/passwd", "a" * 999),
        *([], {}, [[]], [None], {"a": 1}, [1, 2], [0.1, 0.9], ["0"] * 10, ["a", 1]),
    ]
)  # fmt: skip


def places(value, path=()):
    """The paths of all that is in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()  # fmt: skip
    for key, one in inner:
        yield from places(one, (*path, key))


@st.composite
def changed(draw, whole):
    """A JSON value with something odd in place of some of its parts, or without them."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(("odd", "odd", "odd", "out", "in")))
        if kind == "odd":
            holder[path[-1]] = copy.deepcopy(draw(ODD))
        elif kind == "out":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = copy.deepcopy(draw(ODD))
        else:
            holder.insert(path[-1], copy.deepcopy(draw(ODD)))
    return value


def text_of(value):
    """As JSON in UTF-8, what isn't Unicode as its escape."""
    return json.dumps(value).encode()


# --- data


@fuzz(150, data=damaged(samples.npz()))
def test_npz(file, data):
    with refused():
        files.read_npz(str(file("a.npz", data)))


MEMBERS = {f"{name}.npy": samples.npy(array) for name, array in samples.arrays().items()}


@fuzz(150, name=st.sampled_from(sorted(MEMBERS)), data=st.data())
def test_npz_with_a_damaged_array(file, name, data):
    """Packed anew, so that no checksum hides it."""
    member = data.draw(damaged(MEMBERS[name][:200])) + MEMBERS[name][200:]
    with refused():
        files.read_npz(str(file("b.npz", samples.npz_of({**MEMBERS, name: member}))))


IDX = struct.pack(">4I", 0x803, 3, 8, 8) + bytes(192)


@fuzz(100, data=damaged(IDX), outside=st.booleans())
def test_idx(file, data, outside):
    packed = gzip.compress(IDX, mtime=0)
    packed = bytes(len(packed) - len(data) % 9) + packed if outside else gzip.compress(data, 1, mtime=0)  # fmt: skip
    with refused():
        files.read_idx(file("train-images-idx3-ubyte.gz", packed))


# --- images to start from


@fuzz(150, data=damaged(samples.png()))
def test_png(file, data):
    with refused():
        pictures.read(file("a.png", data), samples.SHAPE)


@fuzz(150, data=damaged(samples.png()[8:]))
def test_png_with_right_checksums(file, data):
    with refused():
        pictures.read(file("b.png", samples.png()[:8] + mended(data)), samples.SHAPE)


def mended(data):
    """The chunks of a PNG, each with the checksum of what is in it now."""
    out, place = bytearray(), 0
    while place + 12 <= len(data):
        size = min(int.from_bytes(data[place : place + 4], "big"), len(data) - place - 12)
        body = data[place + 4 : place + 8 + size]
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return bytes(out)


@fuzz(150, data=damaged(samples.npy(np.full(samples.SHAPE, 0.5, np.float32))[:200]))
def test_npy(file, data):
    with refused():
        pictures.read(file("a.npy", data), samples.SHAPE)


# --- exported models


@fuzz(150, data=damaged(samples.denoiser()))
def test_onnx(file, data):
    with refused(ValueError):
        onnx_model.load(file("a.onnx", data)).sample([0, 10], num_steps=2)


@fuzz(200, data=damaged(samples.with_external("../outside.bin", "branch")))
def test_no_weights_come_from_elsewhere(data):
    """What is found to name no other file doesn't, whatever else it is."""
    import onnx

    with contextlib.suppress(ValueError):
        if onnx_bytes.has_external_data(data):
            return
        with contextlib.suppress(
            Exception
        ):  # of Protocol Buffers: then onnxruntime reads none of it
            model = onnx.load_from_string(data)
            assert not names_a_file(model), model


def names_a_file(message):
    """Whether any message in a message says that its data is external."""
    for field, value in message.ListFields():
        if field.name == "data_location" and value == 1:
            return True
        inner = value if field.message_type and not hasattr(value, "ListFields") else [value]
        if field.message_type and any(map(names_a_file, inner)):
            return True
    return False


@fuzz(250, says=changed(samples.spec()))
def test_spec(file, says):
    """Read, planned and drawn with as far as it will go; a ValueError is one that the program turns into a line."""
    with refused(ValueError):
        opened = onnx_model.load(file("b.onnx", samples.denoiser(text_of(says).decode())))
        plan = opened.plan(num_steps=2)
        opened.weights(plan, None)
        opened.sample([0, opened.spec.num_classes], num_steps=2)
        opened.plan()


@fuzz(100, data=damaged(samples.denoiser(samples.spec() | {"training": samples.record()})))
def test_a_file_that_is_to_be_trained_on(file, data):
    """Whatever it says, and whatever its graph is; numbers that are too few are what ends it at last."""
    with refused():
        restorable.open_file(file("d.onnx", data))


@fuzz(100, text=st.text(max_size=50) | damaged(text_of(samples.spec())).map(lambda b: b.decode("utf-8", "replace")))  # fmt: skip
def test_text_of_a_spec(text):
    with refused():
        specs.from_json(text, where="a.onnx")


@fuzz(100, says=changed(samples.judge_says()))
def test_judge(file, says):
    with refused():
        reader = onnx_classifier.Classifier(file("c.onnx", samples.judged(text_of(says).decode())))
        logits, features = reader(np.zeros((2, *reader.says["image_shape"]), np.float32))
        assert logits.shape == (2, reader.num_classes) and features.shape == (2, 4)


# --- runs and sweeps


def leave(file, record=None, metrics=None):
    """A run's folder with these bytes in it."""
    whole = {"run.json": text_of(samples.record()), "metrics.csv": samples.METRICS.encode()}
    asked = {"run.json": record, "metrics.csv": metrics}
    for name, data in whole.items():
        path = file(f"runs/run/{name}", data if asked[name] is None else asked[name])
    file("runs/run/figures/loss.png", samples.png())
    return path.parent


def tell(run):
    """Everything that the page says of a run in words."""
    words.label(run), words.settings(run), words.sampling(run)
    return [run.command, words.images(run), words.parameters(run), *words.outcome(run)]


@pytest.fixture(scope="module")
def convert():
    path = pathlib.Path(__file__).parents[1] / "export" / "convert.py"
    spec = importlib.util.spec_from_file_location("convert_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@fuzz(300, record=changed(samples.record()))
def test_run_json(file, convert, record):
    folder = leave(file, text_of(record))
    with refused():
        tell(found.read(folder))
    with refused():
        convert.describe(runs.Run(folder).read())
    with refused():
        runs.class_names(runs.Run(folder).read(), 10)
    with refused():
        run_settings.resolve({}, runs.Run(folder).read()["settings"])


@fuzz(100, data=damaged(text_of(samples.record())))
def test_bytes_of_run_json(file, data):
    with refused():
        tell(found.read(leave(file, data)))


@fuzz(8, record=changed(samples.record()))
def test_a_page_of_a_damaged_run(file, record):
    folder = leave(file, text_of(record)).parent
    there, unreadable = found.find(folder)
    with refused():
        page.write(there, unreadable, out=folder.parent / "page", runs_folder=folder)


@fuzz(150, data=damaged(samples.METRICS.encode()))
def test_metrics(file, data):
    with refused():
        tell(found.read(leave(file, metrics=data)))


CELLS = st.sampled_from(["", "nan", "inf", "-1", "0", "1e400", "1" * 400, "2.5", "x", "\x00", '"', "１"])  # fmt: skip


@fuzz(100, rows=st.lists(st.lists(CELLS | st.integers().map(str), min_size=4, max_size=6), max_size=4))  # fmt: skip
def test_rows_of_metrics(file, rows):
    text = io.StringIO()
    csv.writer(text).writerows([runs.COLUMNS, *rows])
    with refused():
        tell(found.read(leave(file, metrics=text.getvalue().encode())))


@fuzz(200, record=changed(samples.swept()))
def test_sweep(file, record):
    path = file("sweep.json", text_of(record))
    with refused():
        for row in sweep._read(path)["rows"]:
            sweep.describe(row)
    with refused(ValueError):
        way = sweep.best_of_file(path, calls=10, weights="0" * 64)
        asked = {name: value for name, value in way.items() if not name.startswith("guidance")}
        samplers.plan(linear_schedule(30), "eps", **asked)


@fuzz(60, data=damaged(samples.png()))
def test_figures_of_a_run(file, data):
    path = file("figures/a.png", data)
    with refused():
        size = found._size(path)
        with Image.open(io.BytesIO(samples.png())) as whole:
            assert size is None or min(size) > 0 < min(whole.size)
