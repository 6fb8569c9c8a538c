"""Our own recipe with one part at a time taken back: what each variant changes, and that each is trained and judged alike."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from conftest import make_small

from keras_diffusion import building, course, data, nn
from keras_diffusion.errors import UserError
from keras_diffusion.evaluation import ablation, judge


@pytest.fixture(scope="module")
def digits():
    """1,000 digits for training, 500 for testing."""
    return data.load("mnist-5k").limit(1000)


def ablate(digits, folder, *names, **changes):
    asked = {"width": 4, "epochs": 1, "count": 260, "say": lambda line: None} | changes
    return ablation.ablate(names, judge.of_classes(digits.class_names), digits, folder, **asked)


def test_each_variant_changes_one_thing_and_can_be_built(digits):
    best, decay = ablation.recipe_of("best")
    assert best == course.best(course.recipe_of("2.5"))
    seen = []
    for name in ablation.VARIANTS:
        recipe, own = ablation.recipe_of(name)
        changed = {
            field.name
            for field in dataclasses.fields(recipe)
            if getattr(recipe, field.name) != getattr(best, field.name)
        } | ({"ema_decay"} if own != decay else set())
        seen.append((changed, recipe, own))
        assert changed == set(ablation.VARIANTS[name])
        model = building.model(
            recipe, digits, width=4, ema_decay=own, seed=0, steps_per_epoch=1, epochs=1
        )
        assert (model.min_snr, model.ema_decay) == (recipe.min_snr, own)
        # Weighed alike only where nothing else is asked for, and only where the network knows the linear guess.
        assert (model.data_std is not None) == (recipe.preconditioned and recipe.min_snr is None)
    assert all(a != b for k, a in enumerate(seen) for b in seen[:k])


def test_the_optimizers_rate_is_the_recipes(digits):
    for name in ("best", "course-rate"):
        recipe, _ = ablation.recipe_of(name)
        model = building.model(
            recipe, digits, width=4, ema_decay=None, seed=0, steps_per_epoch=7, epochs=3
        )
        schedule = model.optimizer._learning_rate  # Keras hides the schedule behind its value
        rates = [float(schedule(step)) for step in range(21)]
        wanted = [recipe.learning_rate_at(k, steps_per_epoch=7, epochs=3) for k in range(21)]
        np.testing.assert_allclose(rates, wanted, rtol=1e-5)


def small(*, image_shape, num_classes, **_):
    return make_small(image_shape=image_shape, num_classes=num_classes)


def test_variants_are_measured_once_and_kept(digits, tmp_path, monkeypatch):
    for network in ("unet", "modulated_unet"):
        monkeypatch.setattr(nn, network, small)
    folder = tmp_path / "ablation"
    one = ablate(digits, folder, "best")
    both = ablate(digits, folder, "best", ablation.COURSE)
    assert [row["name"] for row in both["rows"]] == ["best", "course"]
    assert both["rows"][0] == one["rows"][0]
    assert json.loads((folder / "ablation.json").read_text()) == both
    for row in both["rows"]:
        for way in ablation.WAYS:
            assert 0 <= row[way]["accuracy"] <= 1 < row[way]["over_floor"]
    assert both["rows"][0]["loss"] != both["rows"][1]["loss"]
    with pytest.raises(UserError, match="one of another width"):
        ablate(digits, folder, "best", width=5)


def test_a_folder_of_something_else_is_left_alone(digits, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="expected a new folder"):
        ablate(digits, tmp_path, "best")
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_the_policy_that_holds_is_recorded(digits, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        record = ablate(digits, tmp_path / "a")
    finally:
        keras.config.set_dtype_policy(before)
    assert record["precision"] == "mixed_bfloat16"
    assert record["rows"] == []
