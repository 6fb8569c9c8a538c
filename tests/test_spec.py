import dataclasses
import json

import pytest
from conftest import one_line

from keras_diffusion import schedules
from keras_diffusion import spec as specs
from keras_diffusion.errors import UserError

SPEC = specs.Spec(
    kind="denoiser",
    schedule=schedules.linear_schedule(300).to_config(),
    prediction="eps",
    image_shape=(28, 28, 1),
    num_classes=3,
    class_names=("a", "b", "c"),
    defaults={"sampler": "ddim", "num_steps": 5, "guidance_scale": 2.0},
    weights_sha256="0" * 64,
    training={"data": {"name": "mnist", "count": 60000}},
    versions={"keras": "3.15"},
)


def read(**changes):
    values = json.loads(SPEC.to_json()) | changes
    return specs.from_json(json.dumps(values), where="a.onnx")


def test_there_and_back():
    back = specs.from_json(SPEC.to_json(), where="a.onnx")
    assert dataclasses.asdict(back) == dataclasses.asdict(SPEC)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.cosine_schedule(50),
        schedules.flow_schedule(10),
        schedules.table_schedule([1.0, 0.5], [0.0, 0.8]),
    ],
)
def test_schedule(schedule):
    back = read(schedule=schedule.to_config()).make_schedule()
    assert (back.alpha == schedule.alpha).all() and (back.sigma == schedule.sigma).all()


def test_of_kind():
    other = SPEC.of_kind("sampler", precision="int8")
    assert (other.kind, other.precision, other.prediction) == ("sampler", "int8", "eps")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "format: expected 1, got 2; a newer keras-diffusion wrote it"),
        ({"format": "1"}, "format: expected 1"),
        ({"format": True}, "format: expected 1"),
        ({"kind": "classifier"}, "kind: expected one of"),
        ({"kind": ["denoiser"]}, "kind: expected a str"),
        ({"prediction": "score"}, "prediction: expected one of"),
        ({"precision": "int4"}, "precision: expected one of"),
        ({"guidance": "(1 + w)*cond - w*uncond"}, "guidance: expected"),
        ({"data_range": [-1, 1]}, "data_range: expected [0, 1]"),
        ({"image_shape": [28, 28]}, "image_shape: expected [H, W, C]"),
        ({"image_shape": [28, 28, 0]}, "image_shape: expected [H, W, C]"),
        ({"image_shape": [10**6, 10**6, 1]}, "pixels at most"),
        ({"image_shape": [28, 28, True]}, "image_shape"),
        ({"num_classes": -1}, "num_classes: expected 0.."),
        ({"num_classes": 10**9, "class_names": []}, "num_classes: expected 0.."),
        ({"num_classes": True}, "num_classes: expected a int"),
        ({"class_names": ["a"]}, "class_names: expected 3 names, got 1"),
        (
            {"schedule": {"name": "linear", "num_train_steps": 10**9}},
            "schedule: expected 1..100000",
        ),
        (
            {"schedule": {"name": "linear", "num_train_steps": "300"}},
            "schedule: expected 1..100000",
        ),
        ({"schedule": {"name": "exec", "num_train_steps": 3}}, "schedule: expected one of"),
        ({"schedule": {"name": "linear", "num_train_steps": 3, "x": 1}}, "unexpected keyword"),
        ({"schedule": "linear"}, "schedule: expected a dict"),
        ({"defaults": {"strength": 0.5}}, "defaults: expected some of"),
        ({"defaults": {"sampler": ["a"]}}, "defaults: sampler"),
        ({"defaults": {"num_steps": "3"}}, "defaults: num_steps"),
        ({"defaults": {"guidance_scale": True}}, "defaults: guidance_scale"),
        ({"defaults": {"spacing": [3, "a"]}}, "defaults: spacing"),
        ({"class_names": ["a", None, "c"]}, "class_names: expected texts"),
        ({"training": {"loss": float("nan")}}, "expected finite numbers, got NaN"),
        ({"schedule": {"name": "table", "alpha": [1], "sigma": [0]}}, "schedule: expected 1.."),
        ({"something": 1}, "spec: expected no other fields, got 'something'"),
    ],
)
def test_what_is_refused(changes, expected):
    with pytest.raises(UserError) as error:
        read(**changes)
    assert expected in one_line(error) and "a.onnx" in one_line(error)


def test_messages_have_no_control_characters():
    with pytest.raises(UserError) as error:
        read(**{"\x1b[31mred": 1})
    assert "\x1b" not in one_line(error) and "[31mred" in one_line(error)


def test_a_denoisers_schedule_is_a_spec():
    spec = dataclasses.replace(SPEC, schedule=schedules.denoiser_schedule(0.5).to_config())
    assert spec.make_schedule().num_train_steps == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "without its spec"),
        ("", "without its spec"),
        ("{", "can't be read"),
        ("[1]", "expected a JSON object, got 'list'"),
        ("{}", "format: expected 1, got None"),
        ('{"format": 1}', "can't be read"),
        ("[" * 100_000, "can't be read"),
        (" " * (specs.MAX_TEXT + 1), "characters at most"),
    ],
)
def test_text_that_is_none(text, expected):
    with pytest.raises(UserError) as error:
        specs.from_json(text, where="a.onnx")
    assert expected in one_line(error)
