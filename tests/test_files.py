"""Whole files or none."""

import pytest

from keras_diffusion.files import replacing, replacing_folder


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_the_file_beside_keeps_the_suffix_that_keras_asks_for(tmp_path):
    with replacing(tmp_path / "model.keras") as beside:
        assert beside.suffix == ".keras" and beside.parent == tmp_path
        beside.touch()


def test_a_failing_maker_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "made"
    with replacing_folder(path, made="done") as beside:
        (beside / "done").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_folder(path, made="done") as beside:
        (beside / "done").write_text("half")
        raise ZeroDivisionError
    assert (path / "done").read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing_folder(path, made="done") as beside:
        (beside / "done").write_text("new")
    assert (path / "done").read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_is_nobodys(tmp_path):
    with replacing_folder(tmp_path / "made", made="done") as beside:
        (tmp_path / "made").mkdir()
        (beside / "done").touch()
    assert (tmp_path / "made" / "done").exists()
