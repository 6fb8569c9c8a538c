"""scripts/fit.py before training begins: help and wrong input, answered at once and without TensorFlow."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
RUNNER = """
import runpy, sys
sys.argv = ["fit.py", *sys.argv[1:]]
try:
    runpy.run_path({path!r}, run_name="__main__")
finally:
    loaded = [name for name in ("tensorflow", "keras", "matplotlib") if name in sys.modules]
    assert not loaded, loaded
"""


def fit(*arguments, cwd):
    """Runs fit.py and fails where it has loaded TensorFlow."""
    code = RUNNER.format(path=str(ROOT / "scripts" / "fit.py"))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(cwd)},
    )


def leave_run(folder, status):
    folder.mkdir()
    settings = dict(
        part="2.5", edition="ddpm", recipe="default", width=32, epochs=3, batch_size=128,
        data="mnist-5k", limit=None, seed=0, xla="auto", precision="float32",
    )  # fmt: skip
    record = {"format": 1, "status": status, "settings": settings, "figures": []}
    record["data"] = {"sha256": "0" * 64}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def place(tmp_path):
    leave_run(tmp_path / "finished", "finished")
    leave_run(tmp_path / "interrupted", "interrupted")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "a-file").touch()
    np.savez(tmp_path / "wrong.npz", x_train=np.zeros((2, 28, 28), np.uint8))
    return tmp_path


BAD = [
    ([], "--part"),
    (["--part", "2.7"], "2.7"),
    (["--part"], "--part"),
    (["--part", "1.2.1", "--edition", "flow"], "--edition flow"),
    (["--part", "2.5", "--edition", "score"], "score"),
    (["--part", "2.5", "--epochs", "0"], "1..1000000, got 0"),
    (["--part", "2.5", "--epochs", "two"], "'two'"),
    (["--part", "2.5", "--epochs", "1.5"], "'1.5'"),
    (["--part", "2.5", "--width", "-3"], "1..1024, got -3"),
    (["--part", "2.5", "--width", "9999"], "1..1024, got 9999"),
    (["--part", "2.5", "--batch-size", "0"], "1..1048576, got 0"),
    (["--part", "2.5", "--limit", "0"], "at least 1, got 0"),
    (["--part", "2.5", "--seed", "-1"], "got -1"),
    (["--part", "2.5", "--seed", str(2**32)], "got 4294967296"),
    (["--part", "2.5", "--xla", "yes"], "yes"),
    (["--part", "2.5", "--precision", "float64"], "float64"),
    (["--part", "2.5", "--recipe", "mine"], "mine"),
    (["--part", "2.5", "--colour", "red"], "--colour"),
    (["--par", "2.5"], "--part"),
    (["--part", "2.5", "--data", "cifar"], "cifar"),
    (["--part", "2.5", "--data", "missing.npz"], "missing.npz"),
    (["--part", "2.5", "--data", "wrong.npz"], "wrong.npz"),
    (["--part", "2.5", "--data", "mnist-5k", "--out", "a-file"], "a-file"),
    (["--part", "2.5", "--data", "mnist-5k", "--out", "a-file/run"], "a-file"),
    (["--part", "2.5", "--out", "finished"], "--force replaces it"),
    (["--part", "2.6", "--out", "interrupted"], "--resume goes on"),
    (["--part", "2.5", "--out", "broken"], "run.json"),
    (["--part", "1.2", "--data", "mnist-5k", "--out", "x" * 300], "File name too long"),
    (["--part", "1.1", "--epochs", "3"], "trains nothing"),
    (["--part", "2.5", "--out", "finished", "--resume"], "is finished"),
    (["--part", "2.5", "--out", "nowhere", "--resume"], "found none"),
    (["--part", "2.5", "--out", "interrupted", "--resume", "--width", "64"], "was 32"),
    (["--part", "2.2", "--out", "interrupted", "--resume"], "was 2.5"),
    (["--part", "2.5", "--out", "interrupted", "--resume"], "data"),
    (["--part", "2.5", "--out", "interrupted", "--resume", "--force"], "got both"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_wrong_input_is_one_line_and_status_2(place, arguments, said):
    before = sorted(place.rglob("*"))
    result = fit(*arguments, cwd=place)
    assert result.returncode == 2, result
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("fit.py: ")
    assert said in result.stderr
    assert sorted(place.rglob("*")) == before, "something was written"


def test_help_names_every_option(tmp_path):
    result = fit("--help", cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr
    for option in ("part", "edition", "epochs", "width", "batch-size", "data", "limit", "seed", "out",
                   "resume", "xla", "precision", "recipe", "force", "checkpoint-minutes", "checkpoint-steps"):  # fmt: skip
        assert f"--{option}" in result.stdout
