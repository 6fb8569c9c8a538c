"""Whole files or none."""

import pytest

from keras_diffusion.files import replacing


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
