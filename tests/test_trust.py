"""Loading what others made runs none of their code: neither data, models, nor what a write-up is made of."""

import html
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import samples
from conftest import NUM_CLASSES, make_unet, one_line

from keras_diffusion import pictures, runs
from keras_diffusion.data import files
from keras_diffusion.errors import UserError
from keras_diffusion.report import found, page


class Trap:
    """What leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def trap(path):
    """An array of one trap, which is seen to work."""
    array = np.empty(1, object)
    array[0] = Trap(path)
    pickle.loads(pickle.dumps(array))
    path.rmdir()
    return array


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_no_pickle_in_data(tmp_path, key):
    (tmp_path / "a.npz").write_bytes(samples.npz(**{key: trap(tmp_path / "sprung")}))
    with pytest.raises(UserError) as error:
        files.read_npz(str(tmp_path / "a.npz"))
    assert key in one_line(error) and not (tmp_path / "sprung").exists()


def test_no_pickle_in_an_image(tmp_path):
    (tmp_path / "a.npy").write_bytes(samples.npy(trap(tmp_path / "sprung")))
    with pytest.raises(UserError) as error:
        pictures.read(tmp_path / "a.npy", samples.SHAPE)
    assert "object" in one_line(error) and not (tmp_path / "sprung").exists()


def lambda_model(path):
    """Saves a Keras model with Python code in it."""
    import keras

    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Lambda(lambda x: (os.makedirs("sprung", exist_ok=True), x)[1])
    model = keras.Model(inputs, layer(inputs))
    (path.parent / "sprung").rmdir()  # it works: Keras has called it
    model.save(path)


def plain_model(path):
    """Saves a Keras model that is none of ours."""
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)


def foreign_class(path):
    """Saves a model whose class is said to be a function of Python's own."""
    config = {"module": "os", "class_name": "mkdir", "config": "sprung", "registered_name": "mkdir"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.writestr("model.weights.h5", b"")


MODELS = {
    "code": (lambda_model, "a damaged file, or one that holds code"),
    "another": (plain_model, "expected a DiffusionModel, got a Sequential"),
    "function": (foreign_class, "a damaged file, or one that holds code"),
    "damaged": (lambda path: path.write_bytes(b"PK\x03\x04"), "a damaged file"),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_code_in_a_model(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, expected = MODELS[name]
    run = runs.Run(tmp_path)
    make(run.model)
    with pytest.raises(UserError) as error:
        runs.load_sampler(run)
    assert expected in one_line(error) and not (tmp_path / "sprung").exists()
    run.checkpoints.mkdir()
    run.model.rename(run.checkpoint_at(1))
    with pytest.raises(UserError) as error:
        runs.last_model(run, lambda line: None)
    assert "1 damaged" in one_line(error) and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_model_that_is_damaged_anywhere_is_refused(tmp_path, share):
    from keras_diffusion import schedules
    from keras_diffusion.training import DiffusionModel

    model = DiffusionModel(make_unet(num_classes=NUM_CLASSES), schedules.linear_schedule(30))
    run = runs.Run(tmp_path)
    model.save(run.model)
    data = bytearray(run.model.read_bytes())
    place = int(len(data) * share)
    data[place : place + 64] = bytes(255 - byte for byte in data[place : place + 64])
    run.model.write_bytes(data)
    with pytest.raises(UserError) as error:
        runs.load_sampler(run)
    assert "damaged" in one_line(error)


def test_names_of_classes_are_as_many_texts():
    for names in (["ape"], "ape", 3, [1, 2, 3], None):
        with pytest.raises(UserError) as error:
            runs.class_names({"data": {"class_names": names}}, 3)
        assert "expected 3 texts" in one_line(error)
    assert runs.class_names({"data": {"class_names": ["a", "b", "c", "d"]}}, 3) == ["a", "b", "c"]
    assert runs.class_names({"data": {}}, 2) == ["0", "1"] and runs.class_names({"data": {}}, 0) == []  # fmt: skip


MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_no_text_of_a_run_becomes_markup(tmp_path):
    record = samples.record()
    record["figures"][0] |= {"caption": MARKUP}
    record["data"] |= {"name": MARKUP, "class_names": [MARKUP]}
    record["settings"] |= {"data": MARKUP}
    folder = tmp_path / "runs" / "<b>run"
    folder.mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(samples.png())
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text(samples.METRICS)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "run.json").write_text(json.dumps(record | {"status": [MARKUP]}))
    there, unreadable = found.find(tmp_path / "runs")
    assert len(there) == len(unreadable) == 1
    page.write(
        there, unreadable, out=tmp_path / "page", runs_folder=tmp_path / "runs", author=MARKUP
    )
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<script>alert" not in text and "<img src=x" not in text and "<b>run" not in text
    assert "alert(1)" in html.unescape(text)


def graph_with_external_weights():
    """The bytes of an ONNX graph that names a file for its weights."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return helper.make_graph([], "g", [], [], initializer=[weights]).SerializeToString()


def varint(value):
    data = b""
    while value >= 0x80:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def test_weights_in_other_files_are_seen_under_any_spelling_of_a_fields_number():
    from keras_diffusion.sampling import onnx_bytes

    graph = graph_with_external_weights()
    plain = varint(7 << 3 | 2) + varint(len(graph)) + graph
    assert onnx_bytes.has_external_data(plain)
    for hidden in (1 << 32, 1 << 40):  # C++ cuts them off
        with pytest.raises(ValueError, match="a field of number"):
            onnx_bytes.has_external_data(varint((7 << 3 | 2) + hidden) + varint(len(graph)) + graph)


def test_looking_into_a_model_takes_no_memory_to_speak_of():
    import tracemalloc

    from keras_diffusion.sampling import onnx_bytes

    data = bytes([7 << 3 | 2, 0]) * 50_000  # as many empty graphs
    tracemalloc.start()
    assert not onnx_bytes.has_external_data(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    deep = b""
    for _ in range(300):  # an If in an If in an If: graph, node, attribute, graph ...
        for number in (6, 5, 1):
            deep = varint(number << 3 | 2) + varint(len(deep)) + deep
    with pytest.raises(ValueError, match="in each other"):
        onnx_bytes.has_external_data(varint(7 << 3 | 2) + varint(len(deep)) + deep)
