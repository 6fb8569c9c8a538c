"""The run folder: what it keeps, and one line for what can't be read."""

import json
from types import SimpleNamespace

import pytest

from keras_diffusion import run_options
from keras_diffusion.errors import UserError
from keras_diffusion.runs import COLUMNS, Run, format_metrics


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.create()
    return run


def row(step, loss=0.5):
    return dict(zip(COLUMNS, (1, step, loss, 1e-3, 80.0), strict=True))


def write_rows(run, steps):
    run.cut_metrics(0)
    with run.metrics.open("a", encoding="utf-8") as file:
        for step in steps:
            file.write(",".join(str(value) for value in format_metrics(row(step)).values()) + "\n")


def test_cutting_metrics_keeps_the_rows_up_to_a_step(run):
    write_rows(run, range(1, 6))
    run.cut_metrics(3)
    rows = run.read_metrics()
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert rows[0] == row(1)


def test_records_survive_a_round_trip_and_updates_keep_the_rest(run):
    run.write({"status": "running", "figures": [], "settings": {}, "data": {}})
    run.update(status="finished")
    record = run.read()
    assert record["status"] == "finished" and record["figures"] == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", json.dumps({"format": 99}), json.dumps({"format": 1}), "\x00",
     json.dumps({"format": 1, "status": "finished", "settings": [], "data": {}, "figures": []})],
)  # fmt: skip
def test_unreadable_records_are_one_line(run, text):
    (run.folder / "run.json").write_text(text)
    with pytest.raises(UserError) as error:
        run.read()
    assert "\n" not in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize("tail", ["1,2,0.4\n", "a,b,c,d,e\n", "\0\0\0", "1,2,x,0.1,3\n"])
def test_damaged_metrics_are_one_line_that_names_the_line(run, tail):
    write_rows(run, [1])
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write(tail)
    with pytest.raises(UserError, match="in line 3") as error:
        run.cut_metrics(1)
    assert "\n" not in str(error.value)
    run.cut_metrics(0)  # a fresh start doesn't read what it replaces
    assert run.read_metrics() == []


def test_what_a_killed_process_left_is_removed(run):
    for folder in (run.folder, run.figures, run.checkpoints):
        (folder / ".step-00000001.99.tmp.keras").touch()
    with run.held():
        left = {path.name for path in run.folder.rglob("*") if path.is_file()}
    assert left <= {".lock"}


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="expected a folder that can be written"):
        Run(tmp_path / "taken").create()


def test_clearing_removes_all_that_a_run_leaves(run):
    run.write({"status": "finished"})
    write_rows(run, [1])
    for path in (
        run.model,
        run.figures / "loss.png",
        run.checkpoint_at(3),
        run.folder / "notes.txt",
    ):
        path.touch()
    run.clear()
    left = sorted(path.name for path in run.folder.rglob("*") if path.is_file())
    assert left == ["notes.txt"]


def test_the_newest_checkpoint_is_last(run):
    for step in (900, 1000, 20):
        run.checkpoint_at(step).touch()
    assert [path.name for path in run.checkpoint_files()][-1] == "step-00001000.keras"


@pytest.mark.parametrize("chief", [None, True, False])
def test_the_chief_says_that_a_run_starts_over(run, capsys, chief):
    watch = None if chief is None else SimpleNamespace(workers=SimpleNamespace(is_chief=chief))
    asked, not_asked = (SimpleNamespace(resume=resume) for resume in (True, False))
    assert not run_options.goes_on(not_asked, run, watch)
    assert capsys.readouterr().out == ""
    assert not run_options.goes_on(asked, run, watch)
    told = f"{run.folder} was stopped before its first step: starting over\n"
    assert capsys.readouterr().out == ("" if chief is False else told)
    run.write({"status": "running", "figures": [], "settings": {}, "data": {}})
    assert run_options.goes_on(asked, run, watch)
    assert not run_options.goes_on(not_asked, run, watch)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("chief", [None, True, False])
def test_the_chief_says_what_stays_of_a_run_that_is_replaced(run, capsys, chief):
    watch = None if chief is None else SimpleNamespace(workers=SimpleNamespace(is_chief=chief))
    forced, plain = (SimpleNamespace(force=force) for force in (True, False))
    (run.folder / "sweep").touch()  # a file is nobody's
    for name in ("export", "evaluation"):
        (run.folder / name).mkdir()
    run_options.tell_what_stays(forced, run, watch)  # there is no run to be replaced
    run.write({"status": "finished", "figures": [], "settings": {}, "data": {}})
    run_options.tell_what_stays(plain, run, watch)
    assert capsys.readouterr().out == ""
    run_options.tell_what_stays(forced, run, watch)
    folders = f"{run.folder / 'export'}, {run.folder / 'evaluation'}"
    told = (
        f"of the run that --force replaces: {folders}; convert.py and evaluate.py make them anew\n"
    )
    assert capsys.readouterr().out == ("" if chief is False else told)
    for name in ("export", "evaluation"):
        (run.folder / name).rmdir()
    run_options.tell_what_stays(forced, run, watch)
    assert capsys.readouterr().out == ""
