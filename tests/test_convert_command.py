"""export/convert.py: from a run's folder to files, and what it refuses."""

import importlib.util
import json
import os
import pathlib
import sys
from types import MappingProxyType

import numpy as np
import pytest
import samples
from conftest import NUM_CLASSES, make_small, make_unet

from keras_diffusion import cli, schedules
from keras_diffusion.errors import UserError
from keras_diffusion.exporting import parity
from keras_diffusion.sampling import onnx_model
from keras_diffusion.training import DiffusionModel

RECORD = {
    "format": 1,
    "status": "finished",
    "title": "class-conditioned DDPM",
    "parts": ["2.5", "2.6"],
    "settings": {
        "part": "2.5",
        "width": 8,
        "data": "/home/me/secret/mnist.npz",
        "recipe": "default",
    },
    "figures": [],
    "data": {
        "name": "mnist",
        "source": "/home/me/secret/mnist.npz",
        "train_count": 60000,
        "sha256": "ab",
        "class_names": ["ape", "bee", "cat"],
    },
    "steps": 7,
    "ema_decay": 0.999,
}


@pytest.fixture(scope="module")
def main(repo):
    spec = importlib.util.spec_from_file_location("convert_script", repo / "export" / "convert.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "BATCHES", MappingProxyType({2: 3}))
    monkeypatch.chdir(tmp_path)
    model = DiffusionModel(make_small(), schedules.linear_schedule(30))
    leave(tmp_path / "run", model)
    return model


def leave(folder, model, **changes):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(RECORD | changes))
    model.save(folder / "model.keras")


def call(main, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["convert.py", *words.split()])
    return main()


def test_a_run_becomes_files(run, main, monkeypatch, capsys):
    words = "run --to made/here --sampler heun --steps 5 --guidance 2 --also int8"
    assert call(main, monkeypatch, words) == 0
    out = capsys.readouterr().out
    assert "sampler.onnx: within" in out and "int8: pixels differ by" in out
    assert "made/here/denoiser.int8.onnx: 0." in out
    opened = onnx_model.load("made/here/denoiser.onnx")
    assert opened.spec.defaults == {"sampler": "heun", "num_steps": 5, "guidance_scale": 2.0}
    assert opened.spec.class_names == ("ape", "bee", "cat")
    assert opened.spec.training["data"]["sha256"] == "ab" and opened.spec.training["steps"] == 7
    assert {"keras", "onnx", "tf2onnx", "keras_diffusion"} <= set(opened.spec.versions)
    expected = run.sample([0, 1], sampler="heun", num_steps=5, guidance_scale=2.0, seed=4)
    assert np.abs(opened.sample([0, 1], seed=4) - expected).max() < 1e-4


def test_it_goes_into_the_run_and_names_no_path_of_this_machine(run, main, monkeypatch):
    paths = {"match": ["/home/me/secret/a.onnx"], "match_last": ["/secret/b.onnx", "c.onnx"]}
    distilled = {"times": [30.0], "data": "/home/me/secret/mnist.npz", **paths}
    pathlib.Path("run/run.json").write_text(json.dumps({**RECORD, "distilled": distilled}))
    call(main, monkeypatch, "run")
    spec = onnx_model.load("run/export/sampler.onnx").spec
    names = {"match": ["a.onnx"], "match_last": ["b.onnx", "c.onnx"]}
    assert spec.training["distilled"] == {"times": [30.0], "data": "mnist.npz", **names}
    assert "mnist.npz" in spec.to_json() and "secret" not in spec.to_json()
    assert sorted(os.listdir("run")) == ["export", "model.keras", "run.json"]


def test_a_reader_goes_with_the_files(run, main, monkeypatch, tmp_path):
    says = samples.judge_says(class_names=RECORD["data"]["class_names"])
    (tmp_path / "judge.onnx").write_bytes(samples.judged(says, classes=NUM_CLASSES))
    assert call(main, monkeypatch, "run --reader judge.onnx") == 0
    for name in ("denoiser.onnx", "sampler.onnx"):
        opened = onnx_model.load(f"run/export/{name}")
        assert opened.usual_redraw == 0.9 and opened.reader.says["recipe"] == {}
    expected = run.sample([0, 1], reader=opened.reader.probabilities, num_steps=3)
    assert np.abs(opened.sample([0, 1], num_steps=3) - expected).max() < 1e-4


def test_a_reader_of_other_classes_is_refused(run, main, monkeypatch, tmp_path):
    says = samples.judge_says(class_names=["1", "2", "3"])
    (tmp_path / "judge.onnx").write_bytes(samples.judged(says, classes=NUM_CLASSES))
    with pytest.raises(UserError, match="--reader: expected one of class_names"):
        call(main, monkeypatch, "run --reader judge.onnx")
    assert not (tmp_path / "run" / "export").exists()


def test_times_of_ones_own_become_the_default(run, main, monkeypatch):
    call(main, monkeypatch, "run --spacing 30,9,2")
    assert onnx_model.load("run/export/denoiser.onnx").spec.defaults["spacing"] == [30, 9, 2]


REFUSED = {
    "no": "has no run.json",
    "stopped": "expected a finished run",
    "denoiser": "one-step denoiser",
    "run --also int4": "expected float16, int8, tflite",
    "run --sampler euler": "euler: expected a flow schedule",
    "run --steps 31": "--steps: expected an integer in 1..30, got 31",
    "run --eta 0.5": "'eta'",
    "run --to run": "expected a new folder",
    "run --to run/run.json": "expected a new folder",
    "run --to run/run.json/x": "expected a folder that can be written",
    "run --labels 1": "unrecognized arguments",
}


@pytest.mark.parametrize("words", REFUSED)
def test_one_line_and_status_2(run, main, monkeypatch, capsys, tmp_path, words):
    leave(tmp_path / "stopped", run, status="interrupted")
    plain = make_unet(conditioning=None)
    denoiser = DiffusionModel(plain, schedules.denoiser_schedule(), prediction="x0")
    leave(tmp_path / "denoiser", denoiser)
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: call(main, monkeypatch, words))
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1 and REFUSED[words] in err, err
    assert sorted(map(str, tmp_path.rglob("*"))) == before
