"""Whatever is wrong with an option or a file: one line on stderr, status 2, nothing written, and TensorFlow not loaded for it."""

import itertools
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import samples
from onnx import TensorProto, helper
from programs import FILES, MODULE, Programs, command, environment

from keras_diffusion import student

DIGITS = samples.DIGITS


@pytest.fixture(scope="module")
def programs():
    with Programs() as running:
        yield running


def listing(folder):
    """Everything in a folder: what it is, how large, and when it was last written."""
    stats = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {path: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}


def leave(folder, files):
    """Writes files of bytes, text or JSON; a `pathlib.Path` becomes a link, None a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, pathlib.Path):
            path.symlink_to(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))


# --- files, by name: (content, words of the message)

OBJECTS = np.array([{"a": 1}, None], dtype=object)
LABELS = samples.arrays()["y_train"]
IMAGES = samples.arrays()["x_train"]


def members(**changes):
    """The members of a FILE.npz, some of them changed."""
    whole = {f"{name}.npy": samples.npy(array) for name, array in samples.arrays().items()}
    return samples.npz_of({**whole, **changes})


NPZ = {
    "empty": (b"", "expected a whole .npz file"),
    "text": (b"x_train,y_train\n", "expected a whole .npz file"),
    "cut": (samples.npz()[:-40], "expected a whole .npz file"),
    "folder": (None, "which is not a file"),
    "loop": (pathlib.Path("loop.npz"), "which doesn't exist"),
    "array": (samples.npy(IMAGES), "expected a whole .npz file"),
    "nothing": (samples.npz_of({}), "got no x_train"),
    "lacks": (samples.npz(y_test=None), "got no y_test"),
    "floats": (samples.npz(x_train=IMAGES / 255), "expected x_train to be uint8"),
    "nan": (samples.npz(y_train=np.full(20, np.nan)), "expected y_train to be integers"),
    "rank": (samples.npz(x_train=IMAGES[0]), "expected x_train to be [N, H, W]"),
    "channels": (samples.npz(x_train=np.zeros((20, 8, 8, 2), np.uint8)), "C 1 or 3"),
    "sides": (samples.npz(x_train=np.zeros((20, 9, 8), np.uint8)), "multiples of 4"),
    "none": (samples.npz(x_train=IMAGES[:0], y_train=LABELS[:0]), "none 0"),
    "labels": (samples.npz(y_train=LABELS + 1), "got 1..10"),
    "negative": (samples.npz(y_train=LABELS - 1), "got -1..8"),
    "fewer": (samples.npz(y_train=LABELS[:19]), "one for each of x_train"),
    "unlike": (samples.npz(x_test=np.zeros((10, 12, 8), np.uint8)), "as x_train"),
    "text-labels": (samples.npz(y_train=LABELS.astype(str)), "integers"),
    "pickled": (samples.npz(y_train=OBJECTS), "expected y_train to be integers"),
    "pickled-images": (samples.npz(x_train=OBJECTS), "expected x_train to be uint8"),
    "huge": (
        members(**{"x_train.npy": samples.npy_claiming((10**9, 28, 28), "|u1")}),
        "whose header says 784000000000",
    ),
    "bomb": (
        members(**{"x_train.npy": samples.npy_claiming((2**20, 8, 8), "|u1", data=bytes(2**26))}),
        "expected y_train to be [1048576]",
    ),
    "below-0": (
        members(**{"x_train.npy": samples.npy_claiming((-1, 8, 8), "|u1")}),
        "expected a whole .npz file",
    ),
    "code": (
        members(**{"x_train.npy": samples.npy_claiming((), header="__import__('os').abort()")}),
        "expected a whole .npz file",
    ),
    "python2": (
        members(**{"x_train.npy": samples.npy_claiming((), header="{'descr': '|u1', 'fortran_order': False, 'shape': (20L, 8L, 8L)}")}),
        "expected a whole .npz file",
    ),
    "escape": (
        members(**{"x_train.npy": samples.npy_claiming((), header="{'descr': '\\d', 'fortran_order': False, 'shape': ()}")}),
        "expected a whole .npz file",
    ),
    "no-magic": (members(**{"x_train.npy": b"nothing"}), "expected a whole .npz file"),
}  # fmt: skip

OUT = helper.make_tensor_value_info("out", TensorProto.INT32, ["N", *samples.SHAPE])
STRINGS = helper.make_tensor_value_info("out", TensorProto.STRING, ["N", *samples.SHAPE])


def schedule(**changes):
    """A denoiser whose schedule is another."""
    return samples.denoiser(samples.spec() | {"schedule": changes})


def says(**changes):
    """A denoiser that says something else of itself."""
    return samples.denoiser(samples.spec() | changes)


def defaults(**changes):
    """A denoiser with a default that is none."""
    return says(defaults=samples.spec()["defaults"] | changes)


NOT_LOADED = "expected a file that onnxruntime can load"
OUTSIDE = "expected a file that holds its weights itself"
ONNX = {
    "empty": (b"", "expected"),
    "text": (b"this is no model\n", NOT_LOADED),
    "cut": (samples.denoiser()[:-100], NOT_LOADED),
    "zeros": (bytes(1000), NOT_LOADED),
    "folder": (None, "found a folder; name a file in it"),
    "loop": (pathlib.Path("loop.onnx"), "expected an ONNX file, found none"),
    "no-spec": (samples.denoiser(" ").replace(b"keras_diffusion", b"keras_confusion"), "without its spec"),
    "not-json": (samples.denoiser("{"), "the spec can't be read"),
    "list": (samples.denoiser("[]"), "a JSON object"),
    "nested": (samples.denoiser("[" * 10**5), "the spec can't be read"),
    "long": (samples.denoiser('"' + "a" * 2**24 + '"'), "characters at most"),
    "newer": (says(format=2), "a newer keras-diffusion wrote it"),
    "format": (says(format="1"), "format: expected 1"),
    "field": (says(colour="red"), "no other fields"),
    "kind": (says(kind="judge"), "kind: expected one of"),
    "reader-fields": (says(reader={"sha256": "ab"}), "reader: expected sha256 and redraw in [0, 1]"),
    "redraw": (says(reader={"sha256": "ab", "redraw": 7}), "reader: expected sha256 and redraw in [0, 1]"),
    "reader-gone": (says(reader={"sha256": "ab", "redraw": 0.5}), "found none; put it there, name it with --reader, or say --redraw 0"),
    "noise": (says(kind="sampler_noise"), "got a sampler_noise.onnx"),
    "other-graph": (says(kind="sampler"), "expected the graph of a sampler"),
    "other-shape": (says(image_shape=[8, 12, 1]), "got another; export it again"),
    "prediction": (says(prediction="score"), "prediction: expected one of"),
    "precision": (says(precision="int3"), "precision: expected one of"),
    "shape-text": (says(image_shape="8x8"), "image_shape: expected a list"),
    "shape-2": (says(image_shape=[8, 8]), "[H, W, C]"),
    "shape-0": (says(image_shape=[8, 0, 1]), "[H, W, C]"),
    "shape-true": (says(image_shape=[8, 8, True]), "[H, W, C]"),
    "pixels": (says(image_shape=[10**5, 10**4, 1]), "pixels at most, got 1000000000"),
    "steps": (schedule(name="linear", num_train_steps=10**6), "1..100000 steps, got 1000000"),
    "steps-0": (schedule(name="flow", num_train_steps=0), "steps, got 0"),
    "schedule": (schedule(name="sigmoid"), "schedule: expected one of"),
    "schedule-list": (schedule(name=["linear"]), "the spec can't be read"),
    "schedule-words": (schedule(name="linear", power=2), "'power'"),
    "betas": (schedule(name="linear", num_train_steps=30, beta_start=0.5, beta_end=0.1), "beta_start"),
    "table": (schedule(name="table", alpha=[1, 0.5], sigma=[0, "a"]), "the spec can't be read"),
    "table-falls": (schedule(name="table", alpha=[1, 0.5], sigma=[0, -1]), "sigma: expected"),
    "classes": (says(num_classes=10**9, class_names=[]), "num_classes: expected 0..1000000"),
    "classes-below-0": (says(num_classes=-1, class_names=[]), "num_classes"),
    "names": (says(class_names=["0"]), "class_names: expected 10 names, got 1"),
    "names-numbers": (says(class_names=list(range(10))), "class_names: expected texts"),
    "nan": (samples.denoiser(json.dumps(samples.spec()).replace("0.02", "NaN")), "finite numbers"),
    "training": (says(training="none"), "training: expected a dict"),
    "default": (defaults(colour=1), "defaults: expected some of"),
    "default-type": (defaults(num_steps="two"), "num_steps"),
    "default-sampler": (defaults(sampler="plms"), "sampler: expected one of"),
    "default-steps": (defaults(num_steps=10**9), "--steps: expected an integer in 1..30"),
    "default-scale": (defaults(guidance_scale=10**400), "guidance_scale"),
    "default-eta": (defaults(eta=2.5), "--eta: expected"),
    "default-spacing": (defaults(spacing=[10**400, 2]), "spacing"),
    "integers-out": (samples.denoiser(nodes=[helper.make_node("Cast", ["x"], ["out"], to=TensorProto.INT32)], out=OUT), "got another; export it again"),
    "strings-out": (samples.denoiser(nodes=[helper.make_node("Cast", ["x"], ["out"], to=TensorProto.STRING)], out=STRINGS), "got another; export it again"),
    "nan-out": (samples.denoiser(factor=np.nan), "finite"),
    "operator": (samples.denoiser(nodes=[helper.make_node("Evil", ["x"], ["out"], domain="evil.ops")]), NOT_LOADED),
    "external": (samples.with_external("factor.bin"), OUTSIDE),
    "external-up": (samples.with_external("../factor.bin"), OUTSIDE),
    "external-absolute": (samples.with_external("/etc/passwd"), OUTSIDE),
    "external-constant": (samples.with_external("factor.bin", "attribute"), OUTSIDE),
    "external-branch": (samples.with_external("factor.bin", "branch"), OUTSIDE),
}  # fmt: skip


def reads(**changes):
    """A judge that says something else of itself."""
    return samples.judged(samples.judge_says(**changes))


NO_JUDGE = "expected a classifier that scripts/train_judge.py wrote"
JUDGES = {
    "text": (b"no judge\n", NOT_LOADED),
    "denoiser": (samples.denoiser(), NO_JUDGE),
    "not-json": (samples.judged("{"), NO_JUDGE),
    "nested": (samples.judged("[" * 10**5), NO_JUDGE),
    "joined": (reads(recipe={"mean_of": [{"sha256": 5}]}), NO_JUDGE),
    "format": (reads(format=2), NO_JUDGE),
    "no-shape": (reads(image_shape=[8, "8", 1]), NO_JUDGE),
    "names": (reads(class_names=[1, 2]), NO_JUDGE),
    "accuracy": (reads(test_accuracy="high"), NO_JUDGE),
    "other-names": (
        reads(class_names=list("abcdefghij")),
        "--judge: expected one of the classes 0, 1",
    ),
    "other-shape": (reads(image_shape=[12, 8, 1]), NO_JUDGE),
    "outputs": (samples.judged(outputs=("logits", "others")), NO_JUDGE),
    "external": (samples.with_external("factor.bin"), OUTSIDE),
}

NO_JSON = "run.json: expected JSON"
OTHER = "expected a run.json of format 1"
RECORDS = {
    "empty": ("", NO_JSON),
    "text": ("a run\n", NO_JSON),
    "cut": (json.dumps(samples.record())[:-9], NO_JSON),
    "latin-1": (b'{"format": 1, "title": "\xe9"}', NO_JSON),
    "nested": ("[" * 10**5, NO_JSON),
    "digits": ('{"format": %s}' % ("1" * 5000), NO_JSON),
    "list": ([samples.record()], OTHER),
    "newer": (samples.record(format=2), OTHER),
    "status": (samples.record(status=1), "expected a field 'status' (text), got 1"),
    "settings": (samples.record(settings=[]), "expected a field 'settings' (an object)"),
    "data": (samples.record(data="mnist"), "expected a field 'data' (an object)"),
    "figures": (samples.record(figures={}), "expected a field 'figures' (a list)"),
    "long": ('{"format": 1, "a": "' + "a" * 2**24 + '"}', "run.json: expected at most"),
}
METRICS = {
    "columns": "epoch,step\n1,1\n",
    "words": samples.METRICS + "1,3,low,0.001,80\n",
    "huge": samples.METRICS + f"1,{10**30},0.5,0.001,80\n",
    "latin-1": samples.METRICS.encode() + b"1,3,\xe9,0.001,80\n",
    "folder": None,
}
SHOWN = {
    "counts": samples.record(data={"name": "d", "train_count": 10**30}),
    "decay": samples.record(ema_decay=10**400),
    "dropout": samples.record(label_dropout=10**400),
    "width": samples.record(settings=samples.record()["settings"] | {"width": 10**30}),
    "session": samples.record(sessions=[{"machine": {"gpus": 10**400}}]),
}

NO_SWEEP = "expected a sweep.json that evaluate.py --sweep wrote"
ROW = samples.swept()["rows"][0]
SWEEPS = {
    "text": ("a sweep\n", "sweep.json: expected JSON"),
    "latin-1": (b"\xe9", "sweep.json: expected JSON"),
    "nested": ("[" * 10**5, "sweep.json: expected JSON"),
    "list": ([], NO_SWEEP),
    "earlier": (samples.swept(format=1), "got one of an earlier"),
    "no-weights": (samples.swept(weights=""), NO_SWEEP),
    "format": (samples.swept(format="2"), NO_SWEEP),
    "rows": (samples.swept(rows={"a": 1}), NO_SWEEP),
    "calls": (samples.swept(rows=[ROW | {"calls": "3"}]), NO_SWEEP),
    "accuracy": (samples.swept(rows=[ROW | {"accuracy": None}]), NO_SWEEP),
    "sampler": (samples.swept(rows=[ROW | {"sampler": ["ddim"]}]), NO_SWEEP),
    "interval": (samples.swept(rows=[ROW | {"guidance_interval": "all"}]), NO_SWEEP),
    "nan": (json.dumps(samples.swept(floor=float("nan"))), NO_SWEEP),
    "other": (samples.swept(), "got one of another weights"),
}

WRONG_PNG = "expected a .png that can be read"
WRONG_NPY = "expected a .npy that can be read"
PICTURES = {
    "empty.png": (b"", WRONG_PNG),
    "text.png": (b"no picture\n", WRONG_PNG),
    "cut.png": (samples.png()[:-30], WRONG_PNG),
    "folder.png": (None, "expected a .png that can be read, got a folder"),
    "loop.png": (pathlib.Path("loop.png"), "expected a .png that can be read, got none"),
    "gif.png": (b"GIF89a" + bytes(50), WRONG_PNG),
    "bomb.png": (samples.png_claiming(50000, 50000, bytes(2**20)), WRONG_PNG),
    "large.png": (samples.png_claiming(10000, 10000, bytes(2**20)), WRONG_PNG),
    "larger.png": (samples.png_claiming(4097, 4097, bytes(2**20)), WRONG_PNG),
    "side.png": (samples.png(16), "expected 8x8x1, got 16x16x1"),
    "other.jpg": (b"\xff\xd8\xff", "expected an image as .png or .npy"),
    "empty.npy": (b"", WRONG_NPY),
    "text.npy": (b"1 2 3\n", WRONG_NPY),
    "pickled.npy": (samples.npy(OBJECTS), WRONG_NPY),
    "integers.npy": (samples.npy(np.zeros(samples.SHAPE, int)), "floats in 0..1 or bools"),
    "nan.npy": (samples.npy(np.full(samples.SHAPE, np.nan)), "expected values in 0..1"),
    "bright.npy": (samples.npy(np.full(samples.SHAPE, 1e300)), "expected values in 0..1"),
    "rank.npy": (samples.npy(np.zeros(3)), "expected 8x8x1, got 3"),
    "none.npy": (samples.npy(np.zeros((0, *samples.SHAPE))), "--start-from: expected"),
    "three.npy": (samples.npy(np.zeros((3, *samples.SHAPE))), "--start-from: expected"),
    "huge.npy": (samples.npy_claiming((10**6, 10**6), data=bytes(256)), WRONG_NPY),
    "npz.npy": (samples.npz(), WRONG_NPY),
    "python2.npy": (
        samples.npy_claiming((), header="{'descr': '<f4', 'fortran_order': False, 'shape': (8L, 8L, 1L)}", data=bytes(100)),
        WRONG_NPY,
    ),
}  # fmt: skip


def furnish(place):
    """All those files, and whole ones."""
    whole = {
        "digits.npz": samples.npz(),
        "model.onnx": samples.denoiser(),
        "judge.onnx": samples.judged(),
        "joined.onnx": samples.joined(samples.judged()),
        "old.onnx": samples.judged(opset=13),
    }
    leave(place, whole | {"half.png": samples.png(), "text.txt": "text\n", "loop": pathlib.Path("loop")})  # fmt: skip
    leave(place, {"empty/.keep": b"", "theirs/letter.txt": "Dear Ada\n"})
    run = {
        "metrics.csv": samples.METRICS,
        "model.keras": b"no model",
        "figures/loss.png": samples.png(),
    }
    states = {"run": {}, "stopped": {"status": "interrupted"}, "going": {"status": "running"}}
    states["student"] = {"status": "interrupted", "distilled": STUDENT}
    for name, changes in states.items():
        leave(place / name, run | {"run.json": samples.record(**changes)})
    leave(place / "bare", {"run.json": samples.record()})
    for name, (content, _) in NPZ.items():
        leave(place / "npz", {f"{name}.npz": content})
    for name, (content, _) in ONNX.items():
        leave(place / "onnx", {f"{name}.onnx": content})
    leave(place, {"factor.bin": bytes(4), "onnx/factor.bin": bytes(4)})
    for name, (content, _) in JUDGES.items():
        leave(place / "judges", {f"{name}.onnx": content})
    for name, (content, _) in RECORDS.items():
        leave(place / "records" / name, run | {"run.json": content})
    for name, (content, _) in SWEEPS.items():
        leave(place / "sweeps" / name, {"sweep.json": content})
    for name, (content, _) in PICTURES.items():
        leave(place / "pictures", {name: content})
    for name, content in METRICS.items():
        leave(place / "shown" / name, run | {"run.json": samples.record(), "metrics.csv": content})
    for name, content in SHOWN.items():
        leave(place / "shown" / f"a-{name}", run | {"run.json": content})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    furnish(place)
    return place


STUDENT = student.Asked(times=(30.0, 15.0)).to_json()

# --- the table: (program, its arguments, words of the message)

# An option's wrong values, for every program that has it.
DRAWING = [
    ("--sampler=plms", "plms"),
    ("--sampler=", "--sampler"),
    ("--steps=0", "--steps: expected an integer of at least 1, got 0"),
    ("--steps=ten", "--steps: expected an integer of at least 1, got 'ten'"),
    ("--steps=2.5", "--steps"),
    ("--spacing=cubic", "--spacing: expected uniform, quadratic, lam or times"),
    ("--spacing=", "--spacing"),
    ("--spacing=30,,1", "--spacing"),
    ("--eta=1.1", "--eta: expected a number in 0..1, got '1.1'"),
    ("--eta=nan", "--eta: expected a number in 0..1, got 'nan'"),
    ("--variance=gamma", "--variance"),
    ("--guidance=inf", "--guidance: expected a number, got 'inf'"),
    ("--guidance=much", "--guidance: expected a number, got 'much'"),
    ("--guidance-interval=0.5", "--guidance-interval: expected two numbers in 0..1"),
    ("--guidance-interval=a,b", "--guidance-interval: expected two numbers in 0..1"),
]
ASKING = [
    ("--labels=", "--labels: expected integers with commas"),
    ("--labels=1,two", "--labels: expected integers with commas"),
    ("--labels=1.5", "--labels: expected integers with commas"),
    ("--per-label=0", "--per-label: expected an integer in 1..10000000, got 0"),
    ("--per-label=99999999999", "--per-label"),
    ("--guidance-rescale=2", "--guidance-rescale: expected a number in 0..1"),
    ("--redraw=1.5", "--redraw: expected a number in 0..1, got '1.5'"),
    ("--redraw=much", "--redraw: expected a number in 0..1, got 'much'"),
    ("--reader=", "--reader: expected a name, got ''"),
    ("--no-clip=1", "--no-clip"),
    ("--seed=-1", "--seed: expected an integer in 0..9223372036854775807, got -1"),
    ("--seed=9223372036854775808", "--seed"),
    ("--to-seed=x", "--to-seed"),
    ("--strength=1.5", "--strength: expected a number in 0..1"),
    ("--start-from=", "--start-from: expected a name, got ''"),
    ("--keep=", "--keep: expected a name, got ''"),
    ("--out=a.jpg", "--out: expected a name ending in .png, .gif, .npy"),
    ("--out=", "--out: expected a name ending in .png, .gif, .npy"),
    ("--out=no/a.png", "--out: expected a folder that can be written, got 'no'; make it"),
    ("--out=text.txt/a.png", "--out: expected a folder that can be written, got 'text.txt'"),
    ("--out=loop/a.png", "--out: expected a folder that can be written, got 'loop'"),
    ("--out=pictures/folder.png", "--out: expected a file, got the folder"),
    (f"--out={'a' * 300}.png", "File name too long"),
]
ONNX_ONLY = [
    ("--shard=0/2", "--shard: expected k/n with 1 <= k <= n, got '0/2'"),
    ("--shard=3/2", "--shard: expected k/n"),
    ("--shard=1", "--shard: expected k/n"),
    ("--shard=1/" + "9" * 5000, "--shard: expected k/n"),
    ("--shard=1/2", "--out: expected a .npy with --shard"),
    ("--threads=0", "--threads: expected an integer in 1..1024, got 0"),
    ("--provider=tpu", "--provider"),
    # what only the model can tell
    ("--labels=0,11", "--labels: expected 0..10 (10: no class), got 11"),
    ("--labels=-1", "--labels: expected 0..10 (10: no class), got -1"),
    ("--labels=1,1", "--labels: expected each class once, got 1,1"),
    ("--steps=31", "--steps: expected an integer in 1..30, got 31"),
    (f"--steps={10**30}", "--steps: expected an integer in 1..30"),
    ("--spacing=30,nan", "--spacing: expected times that fall from 30"),
    ("--spacing=20,10", "--spacing: expected times that fall from 30 to above 0, got 20.0 in place 1"),
    ("--spacing=30,40", "--spacing: expected times that fall from 30"),
    ("--sampler=euler", "--sampler: euler: expected a flow schedule"),
    ("--variance=beta", "--sampler 'ddim': expected options ('eta',), got 'variance'"),
    ("--guidance=1e39", "--guidance: expected a number"),
    ("--guidance-interval=1,0", "--guidance-interval: expected (low, high)"),
    ("--guidance-interval=nan,1", "--guidance-interval: expected (low, high)"),
    ("--strength=0", "--strength: expected a number in (0, 1], got 0"),
    ("--strength=0.5", "--strength: expected --start-from as well, got none"),
    ("--keep=half.png", "--keep: expected --start-from as well, got none"),
    ("--per-label=400000", "--out: expected at most"),
    ("--redraw=0.5", "--redraw: expected --reader as well, got 0.5 alone"),
    ("--reader=no.onnx", "no.onnx: expected an ONNX file, found none"),
    ("--reader=model.onnx", "model.onnx: expected a classifier that scripts/train_judge.py wrote"),
    ("--reader=judge.onnx --redraw=0.5 --to-seed=3", "--redraw: expected 0 with --to-seed, got 0.5"),
    ("--reader=judge.onnx --redraw=0.5 --out=a.gif", "--redraw: expected 0 with --out=.gif, got 0.5"),
]  # fmt: skip
FIT = [
    ("", "--part"),
    ("--part=2.7", "2.7"),
    ("--part=1.2.1 --edition=flow", "--part: expected one of"),
    ("--part=2.5 --edition=score", "--edition"),
    ("--part=2.5 --epochs=0", "--epochs: expected an integer in 1..1000000, got 0"),
    ("--part=2.5 --epochs=1000001", "--epochs"),
    ("--part=2.5 --epochs=1e3", "--epochs"),
    ("--part=2.5 --width=0", "--width: expected an integer in 1..1024, got 0"),
    ("--part=2.5 --width=1025", "--width"),
    ("--part=2.5 --batch-size=0", "--batch-size"),
    (f"--part=2.5 --batch-size={10**20}", "--batch-size"),
    ("--part=2.5 --limit=0", "--limit"),
    ("--part=2.5 --limit=-5", "--limit"),
    ("--part=2.5 --seed=4294967296", "--seed: expected an integer in 0..4294967295"),
    ("--part=2.5 --xla=yes", "--xla"),
    ("--part=2.5 --precision=float64", "--precision"),
    ("--part=2.5 --recipe=mine", "--recipe"),
    ("--part=2.5 --checkpoint-minutes=-1", "--checkpoint-minutes"),
    ("--part=2.5 --checkpoint-minutes=nan", "--checkpoint-minutes"),
    ("--part=2.5 --checkpoint-steps=0", "--checkpoint-steps"),
    ("--part=2.5 --devices=0", "--devices: expected an integer in 1..64, got 0"),
    ("--part=2.5 --devices=both", "--devices: expected an integer in 1..64, got 'both'"),
    ("--part=2.5 --workers=2", "--workers: ignored explicit argument '2'"),
    ("--part=2.5 --recover=-1", "--recover: expected an integer in 0..100, got -1"),
    ("--part=2.5 --data=cifar", "got 'cifar'"),
    ("--part=2.5 --data=", "--data: expected a name, got ''"),
    ("--part=2.5 --out=", "--out: expected a name, got ''"),
    ("--part=2.5 --data=no.npz", "which doesn't exist"),
    ("--part=2.5 --data=digits.npz --out=text.txt", "text.txt"),
    ("--part=2.5 --data=digits.npz --out=loop", "--out: expected a folder that can be written"),
    ("--part=2.5 --data=digits.npz --out=text.txt/run", "--out: expected a folder"),
    ("--part=2.5 --out=run", "is finished; --force replaces it"),
    ("--part=2.5 --out=stopped", "--resume goes on, --force starts over"),
    ("--part=2.5 --out=going", "not finished, or still going on"),
    ("--part=2.5 --out=run --resume", "is finished; --force trains it anew"),
    ("--part=2.5 --out=run --resume --epochs=9", "a longer run is another one"),
    ("--part=2.5 --out=stopped --resume --force", "got both"),
    ("--part=2.5 --out=stopped --resume --width=16", "--width was 8"),
    ("--part=2.5 --out=stopped --resume --data=digits.npz", "--data was mnist"),
    ("--part=2.2 --out=stopped --resume", "--part was 2.5"),
    ("--part=2.5 --out=nowhere --resume", "found none"),
    ("--part=2.5 --out=student --resume", "got a student in student; use distill.py"),
    ("--part=1.1 --epochs=2", "trains nothing"),
    ("--part=2.5 --colour=red", "unrecognized arguments"),
    ("--part=2.5 --epoch=2", "unrecognized arguments"),
    ("--part=2.5 extra", "unrecognized arguments: extra"),
]
EVALUATE = [
    ("no.onnx", "no.onnx: expected a run's folder (of fit.py) or an ONNX file (of convert.py), found none"),
    ("empty", "which has no run.json"),
    ("stopped", "expected a finished run"),
    ("model.onnx --num-samples=0", "--num-samples: expected an integer in 1..1000000, got 0"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=15", "a multiple of the 10 classes"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=100 --steps=31", "--steps: expected an integer in 1..30"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --sweep --num-samples=100 --step-counts=31", "--step-counts: expected an integer in 1..30"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --sweep --num-samples=100 --times=20,1", "--times: expected times that fall from 30"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --sweep --num-samples=100 --scales=1e39", "--scales"),
    ("model.onnx --sweep --guidance=2", "--guidance: expected --scales with --sweep"),
    ("model.onnx --sweep --variance=beta", "--variance: expected none with --sweep"),
    ("model.onnx --sweep --redraw=0.5", "--redraw: expected none with --sweep"),
    ("model.onnx --redraw=2", "--redraw: expected a number in 0..1"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=100 --redraw=0.5", "--redraw: expected --reader as well, got 0.5 alone"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=100 --reader=judge.onnx", "--reader: expected another classifier than the judge"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=100 --reader=joined.onnx", "--reader: expected another classifier than the judge"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --num-samples=100 --reader=no.onnx", "no.onnx: expected an ONNX file"),
    ("model.onnx --sharpen=1.5", "--sharpen: expected a number in 0..1"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --sweep --out=text.txt --num-samples=100", "text.txt"),
    ("model.onnx --data=digits.npz --judge=judge.onnx --sweep --out=theirs --num-samples=100", "--out: expected a new folder"),
    ("model.onnx --data=", "--data: expected a name, got ''"),
    ("model.onnx --judge=", "--judge: expected a name, got ''"),
    ("model.onnx --out=", "--out: expected a name, got ''"),
    ("model.onnx --out=theirs", "expected a new folder, or one with evaluation.json in it"),
    ("model.onnx --out=text.txt", "got a file"),
    ("model.onnx --out=loop", "Too many levels of symbolic links"),
    ("model.onnx --data=no.npz", "which doesn't exist"),
    ("model.onnx --data=digits.npz --judge=no.onnx", "no.onnx: expected an ONNX file, found none"),
    ("model.onnx --scales=1,2", "--scales: expected with --sweep, got it alone"),
    ("model.onnx --sweep --samplers=plms", "plms"),
    ("model.onnx --sweep --step-counts=0", "--step-counts"),
    ("model.onnx --sweep --spacings=cubic", "--spacings"),
    ("model.onnx --sweep --etas=2", "--etas"),
    ("model.onnx --sweep --scales=one", "--scales"),
    ("model.onnx --sweep --intervals=1-0", "--intervals"),
    ("model.onnx --sweep --times=a", "--times"),
    ("model.onnx --sweep --times=30,1 --spacings=lam", "--spacings: expected with --step-counts"),
    ("model.onnx --seed=-1", "--seed"),
]  # fmt: skip
REPORT = [
    ("--runs=no", "--runs: expected a folder with runs in it, got 'no'"),
    ("--runs=", "--runs: expected a folder, got ''"),
    ("--runs=text.txt", "--runs: expected a folder with runs in it"),
    ("--runs=loop", "--runs: expected a folder with runs in it"),
    ("--runs=run", "give the folder above it"),
    ("--runs=. --out=", "--out: expected a name, got ''"),
    ("--runs=. --out=text.txt", "got a file"),
    ("--runs=. --out=theirs", "got a folder with letter.txt in it"),
    ("--runs=. --out=loop", "Too many levels of symbolic links"),
    ("--quick --full", "--full"),
    ("--width=8", "expected with --quick or --full"),
    ("--quick --width=0", "--width"),
    ("--quick --data=", "--data: expected a name, got ''"),
    ("--quick --out=theirs", "letter.txt"),
]
TRAIN_JUDGE = [
    ("--data=cifar", "got 'cifar'"),
    ("--data=no.npz", "which doesn't exist"),
    ("--epochs=0", "--epochs"),
    ("--width=2000", "--width"),
    ("--seed=-1", "--seed"),
    ("--at-least=1.5", "--at-least: expected a number in 0..1"),
    ("--out=judge.pt", "--out: expected a name ending in .onnx"),
    ("--out=no/judge.onnx", "--out: expected a folder that can be written"),
    ("--flip=1", "--flip"),
    ("--join=judge.onnx", "--join: expected two or more files"),
    ("--join=judge.onnx,", "--join: expected a name, got ''"),
    ("--data=digits.npz --join=judge.onnx,judge.onnx", "--join: expected different files"),
    ("--data=digits.npz --join=judge.onnx,old.onnx", "got old.onnx of other operators"),
    ("--join=judge.onnx,judge.onnx --width=8", "--width: expected none with --join, got 8"),
    ("--join=judge.onnx,judge.onnx --flip", "--flip: expected none with --join"),
    ("--data=digits.npz --join=judge.onnx,no.onnx", "no.onnx: expected an ONNX file, found none"),
    ("--data=digits.npz --join=judge.onnx,model.onnx", "model.onnx: expected a classifier that"),
    ("--data=digits.npz --join=judge.onnx,joined.onnx", "got joined.onnx of several"),
    (
        "--data=digits.npz --join=judge.onnx,judges/other-names.onnx",
        "got judges/other-names.onnx of ['a', 'b'",
    ),
]
CONVERT = [
    ("", "RUN"),
    ("no", "got 'no', which has no run.json"),
    ("text.txt", "which has no run.json"),
    ("loop", "which has no run.json"),
    ("stopped", "which is interrupted"),
    ("bare", "expected a run that trained a model, got 'bare' without one"),
    ("run --also=int4", "--also: expected float16, int8, tflite"),
    ("run --also=", "--also: expected float16, int8, tflite"),
    ("run --to=", "--to: expected a name, got ''"),
    ("run --best=", "--best: expected a name, got ''"),
    ("run --calls=3", "--calls: expected with --best, got it alone"),
    ("run --best=sweeps/other --calls=0", "--calls"),
    ("run --redraw=0.5", "--redraw: expected --reader as well, got it alone"),
    ("run --redraw=1.5 --reader=judge.onnx", "--redraw: expected a number in 0..1"),
    ("run --reader=no.onnx", "no.onnx: expected an ONNX file, found none"),
    ("run --reader=model.onnx", "model.onnx: expected a classifier"),
]
RESTORE = [
    ("", "--out"),
    ("--out=", "--out: expected a name, got ''"),
    ("--out=theirs", "--out: expected a new folder, got theirs, which is there"),
    ("--out=text.txt", "--out: expected a new folder, got text.txt, which is there"),
    ("no.onnx --out=new", "no.onnx: expected an ONNX file, found none"),
    ("judge.onnx --out=new", "judge.onnx: expected a file that export/convert.py wrote"),
    ("model.onnx --out=new", "got one without its settings"),
    ("onnx/cut.onnx --out=new", "onnx/cut.onnx: expected a file that onnxruntime can load"),
]
SAMPLE = [
    ("", "RUN"),
    ("no", "got 'no', which has no run.json"),
    ("loop", "which has no run.json"),
    ("stopped", "which is interrupted"),
    ("going", "which is running"),
    ("bare", "expected a run that trained a model, got 'bare' without one"),
]
DISTILL = [
    ("", "RUN"),
    ("no", "got 'no', which has no run.json"),
    ("loop", "which has no run.json"),
    ("stopped", "which is interrupted"),
    ("bare", "expected a run that trained a model, got 'bare' without one"),
    ("run --steps=0", "--steps: expected an integer of at least 1, got 0"),
    ("run --spacing=cubic", "--spacing: expected uniform, quadratic, lam or times"),
    ("run --teacher-steps=0", "--teacher-steps: expected an integer in 1..1000, got 0"),
    ("run --guidance=inf", "--guidance: expected a number, got 'inf'"),
    ("run --guidance-interval=0.5", "--guidance-interval: expected two numbers in 0..1"),
    ("run --epochs=0", "--epochs: expected an integer in 1..1000000, got 0"),
    ("run --batch-size=0", "--batch-size"),
    ("run --rate=0", "--rate: expected a number in 1e-08..1, got '0'"),
    ("run --seed=-1", "--seed"),
    ("run --data=", "--data: expected a name, got ''"),
    ("run --data=no.npz", "which doesn't exist"),
    ("run --data=digits.npz --out=text.txt", "--out: expected a folder that can be written"),
    ("run --out=", "--out: expected a name, got ''"),
    ("run --out=run", "--out: expected another folder than the teacher's, got run"),
    ("run --out=./run/. --force", "--out: expected another folder than the teacher's"),
    ("run --out=stopped", "--resume goes on, --force starts over"),
    ("run --out=stopped --resume --force", "got both"),
    ("run --out=nowhere --resume", "--resume: expected a run in nowhere, found none"),
    ("run --out=stopped --resume", "--resume: expected a student's run, got another; use fit.py"),
    ("run --out=student --resume --rate=0.1", "--resume: --rate was 0.0005 in this run and is 0.1"),
    ("run --out=student --resume --steps=4", "--resume: --spacing was 30.0,15.0 in this run"),
    ("run --steps=31", "--steps: expected an integer in 1..30, got 31"),
    ("run --spacing=20,10", "--spacing: expected times that fall from 30"),
    ("run --guidance=1e39", "guidance_scale"),
    ("run --guidance-interval=0.7,0.35", "--guidance-interval: expected (low, high)"),
]


def rows():
    """The whole table."""
    for arguments, words in DRAWING:
        for program, first in (("sample", "run"), ("convert", "run"), ("evaluate", "model.onnx"), (MODULE, "model.onnx")):  # fmt: skip
            yield program, [first, arguments], words
    for arguments, words in ASKING:
        for program, first in (("sample", "run"), (MODULE, "model.onnx")):
            yield program, [first, arguments], words
    for k, (arguments, words) in enumerate(ONNX_ONLY):
        yield (MODULE, "export")[k % 2], ["model.onnx", *arguments.split()], words
    listed = {"fit": FIT, "evaluate": EVALUATE, "report": REPORT, "train_judge": TRAIN_JUDGE, "convert": CONVERT, "restore": RESTORE, "sample": SAMPLE, "distill": DISTILL}  # fmt: skip
    for program, cases in listed.items():
        for arguments, words in cases:
            yield program, arguments.split(), words
    trained = itertools.cycle([("fit", ["--part=2.5", "--out=new"]), ("train_judge", []), ("evaluate", ["model.onnx"])])  # fmt: skip
    for name, (_, words) in NPZ.items():
        program, first = next(trained)
        yield program, [*first, f"--data=npz/{name}.npz"], words
    for k, (name, (_, words)) in enumerate(ONNX.items()):
        yield (MODULE, "export")[k % 2], [f"onnx/{name}.onnx"], words
    for name in ("text", "nested", "pixels", "external"):
        yield "evaluate", [f"onnx/{name}.onnx"], ONNX[name][1]
    for k, (name, (_, words)) in enumerate(JUDGES.items()):
        yield "evaluate", ["model.onnx", "--data=digits.npz", f"--judge=judges/{name}.onnx"], words
        if words in (NOT_LOADED, NO_JUDGE):
            yield (MODULE, "export")[k % 2], ["model.onnx", f"--reader=judges/{name}.onnx"], words
    readers = itertools.cycle([
        ("sample", lambda run: [run]),
        ("convert", lambda run: [run]),
        ("evaluate", lambda run: [run]),
        ("fit", lambda run: ["--part=2.5", f"--out={run}"]),
        ("fit", lambda run: ["--part=2.5", "--resume", f"--out={run}"]),
    ])  # fmt: skip
    for name, (_, words) in RECORDS.items():
        program, arguments = next(readers)
        yield program, arguments(f"records/{name}"), words
    for name in ("cut", "newer", "data"):
        arguments = ["--part=2.5", "--resume", f"--out=records/{name}"]
        yield "fit", arguments, "; --force starts over"
    for name, (_, words) in SWEEPS.items():
        first = ["model.onnx", "--data=digits.npz", "--judge=judge.onnx", "--num-samples=100"]
        yield "evaluate", [*first, "--sweep", f"--out=sweeps/{name}"], words
    for name, (_, words) in PICTURES.items():
        first = ["model.onnx", "--strength=0.5", "--labels=1", "--per-label=2"]
        yield MODULE, [*first, f"--start-from=pictures/{name}"], words
    for name in ("bomb.png", "pickled.npy", "nan.npy"):
        first = ["model.onnx", "--start-from=half.png"]
        yield "export", [*first, f"--keep=pictures/{name}"], PICTURES[name][1]


ROWS = list(rows())


def shown(row):
    program, arguments, _ = row
    return " ".join([program, *arguments])[:150]


def check(outcome, words):
    """One line with these words, status 2, and nothing said to be done."""
    assert outcome.status == 2, outcome
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err
    assert words in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert outcome.err.removesuffix("\n").isprintable(), outcome.err


def test_the_table_is_long_and_has_every_program():
    assert len(ROWS) >= 150 and {row[0] for row in ROWS} == {*FILES, MODULE}
    assert len({(program, *arguments) for program, arguments, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=shown)
def test_one_line_status_2_and_nothing_written(programs, place, row):
    program, arguments, words = row
    before = listing(place)
    outcome = programs(program, arguments, place)
    check(outcome, words)
    assert outcome.loaded == [], "TensorFlow was loaded for it"
    assert listing(place) == before


HONEST = [row for row in ROWS if "large.png" in str(row) or "external-up" in str(row)]
HONEST += [next(row for row in ROWS if row[0] == program) for program in ("fit", "convert", "report")]  # fmt: skip


@pytest.mark.parametrize("row", HONEST, ids=shown)
def test_a_process_of_its_own_says_the_same(programs, place, row):
    program, arguments, words = row
    before = listing(place)
    done = subprocess.run(
        command(program, arguments), cwd=place, capture_output=True, text=True, env=environment()
    )
    fork = programs(program, arguments, place)
    assert (done.returncode, done.stdout, done.stderr) == (fork.status, fork.out, fork.err)
    assert words in done.stderr and listing(place) == before


def test_a_fork_tells_what_is_loaded_and_what_fails(programs, tmp_path):
    """That the table could fail: a traceback, an import and a status of 0 are seen."""
    (tmp_path / "tensorflow.py").touch()
    outcome = programs(MODULE, ["--help"], tmp_path)
    assert outcome.status == 0 and "--labels" in outcome.out and not outcome.err
    with pytest.raises(AssertionError):
        check(outcome, "--labels")


# --- the write-up names what it can't read, and goes on


@pytest.mark.parametrize("name", [*METRICS, *(f"a-{name}" for name in SHOWN)])
def test_the_report_names_a_run_that_it_can_not_read(programs, place, tmp_path, name):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).symlink_to(place / "shown" / name)
    outcome = programs("report", ["--out=page"], tmp_path)
    assert outcome.status == 0 and outcome.err == "" and outcome.loaded == [], outcome
    assert f"left out: {name}: " in outcome.out, outcome.out
    assert (tmp_path / "page" / "index.html").is_file()


def test_the_report_shows_what_it_can_of_a_run(programs, place, tmp_path):
    odd = {"config": {"learning_rate": 10**400}}
    leave(tmp_path / "runs" / "run", {"run.json": samples.record(optimizer=odd)})
    leave(tmp_path / "runs" / "run", {"metrics.csv": samples.METRICS})
    outcome = programs("report", ["--out=page"], tmp_path)
    assert outcome.status == 0 and outcome.err == "", outcome
    assert outcome.out.endswith("1 run: page/index.html\n") and "left out" not in outcome.out


def test_the_report_of_our_own_recipe_alone_names_the_parts_that_have_none(programs, tmp_path):
    ours = samples.record()["settings"] | {"recipe": "best"}
    leave(tmp_path / "runs" / "run", {"run.json": samples.record(settings=ours)})
    leave(tmp_path / "runs" / "run", {"metrics.csv": samples.METRICS})
    outcome = programs("report", ["--out=page"], tmp_path)
    assert outcome.status == 0 and outcome.err == "", outcome
    assert "fit.py --part 2.2 --recipe best --width 8\n" in outcome.out
    assert "fit.py --part 1.2.1 --width 8\n" in outcome.out


def test_names_that_are_not_utf8_are_said(programs, place, tmp_path):
    name = os.fsdecode(b"d\xff.png")
    outcome = programs(MODULE, [str(place / "model.onnx"), f"--out={name}", "--labels=1"], tmp_path)
    assert outcome.status == 0 and outcome.err == "", outcome
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_message_can_not_steer_the_terminal(programs, place, tmp_path):
    outcome = programs(MODULE, [str(place / "model.onnx"), "--out=\x1b[31mred.jpg"], tmp_path)
    check(outcome, "red.jpg")
    outcome = programs("fit", ["--part=\x1b[31m"], tmp_path)
    check(outcome, "[31m")
