"""Whole files or none."""

import errno
import os

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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none/a.png", errno.ENOENT),
        ("file/a.png", errno.ENOTDIR),
        ("a" * 300, errno.ENAMETOOLONG),
    ],
)
def test_what_can_not_be_written_is_called_by_its_own_name(tmp_path, name, kind):
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(OSError) as refused, replacing(path) as beside:
        beside.write_text("new")
    assert refused.value.filename == str(path) and refused.value.errno == kind


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    """Of an open file the name may be its number."""
    with pytest.raises(OSError) as refused, replacing(tmp_path / "a.png"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), 7)
    assert refused.value.filename == 7 and not list(tmp_path.iterdir())


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


def test_the_old_folder_comes_back_where_the_new_one_can_not_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "made"
    with replacing_folder(path, made="done") as beside:
        (beside / "done").write_text("old")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), replacing_folder(path, made="done") as beside:
        (beside / "done").write_text("new")
    assert (path / "done").read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_link_stands_for_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing_folder(tmp_path / "link", made="done") as beside:
        (beside / "done").write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "done").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2
