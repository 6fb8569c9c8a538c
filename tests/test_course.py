"""The table of the course's parts, and what a user's options make of it."""

import dataclasses

import pytest

from keras_diffusion import course, illustrate, predictions, schedules, settings
from keras_diffusion.errors import UserError

ROWS = [(edition, recipe) for edition, rows in course.RECIPES.items() for recipe in rows]
IDS = [f"{edition}-{recipe.parts[0]}" for edition, recipe in ROWS]


def test_every_part_of_the_course_has_exactly_one_row():
    parts = ["1.1", "1.2", "1.2.1", "1.2.2", "1.2.3", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"]
    assert list(course.PARTS) == parts
    for part in parts:
        assert part in course.recipe_of(part).parts
    for part in parts[5:]:
        assert part in course.recipe_of(part, edition="flow").parts


@pytest.mark.parametrize(("edition", "recipe"), ROWS, ids=IDS)
def test_rows_name_figures_predictions_and_schedules_that_exist(edition, recipe):
    for name in (*recipe.figures, *recipe.final_figures):
        assert callable(getattr(illustrate, name)) and name in illustrate.FIGURES
    if recipe.epochs:
        schedule = schedules.from_config(recipe.schedule)
        assert recipe.prediction in predictions.NAMES
        assert schedule.continuous == (edition == "flow")
        assert recipe.figure_epochs[:2] == (1, 5)
    else:
        assert recipe.final_figures and not recipe.figures


@pytest.mark.parametrize(
    ("part", "edition", "values"),
    [
        (
            "1.2.1",
            "ddpm",
            dict(width=128, batch_size=256, learning_rate=1e-4, epochs=5, decays=False),
        ),
        (
            "1.2.3",
            "ddpm",
            dict(width=128, batch_size=256, learning_rate=1e-4, epochs=5, decays=False),
        ),
        ("2.2", "ddpm", dict(width=64, batch_size=128, learning_rate=1e-3, epochs=20, decays=True)),
        (
            "2.5",
            "ddpm",
            dict(width=128, batch_size=128, learning_rate=1e-3, epochs=20, decays=True),
        ),
        ("2.2", "flow", dict(width=64, batch_size=64, learning_rate=1e-2, epochs=10, decays=True)),
        ("2.5", "flow", dict(width=64, batch_size=64, learning_rate=1e-2, epochs=10, decays=True)),
    ],
)
def test_hyper_parameters_are_the_courses(part, edition, values):
    recipe = course.recipe_of(part, edition=edition)
    assert {name: getattr(recipe, name) for name in values} == values


def test_denoisers_have_the_courses_noise():
    for part, alpha, sigma in (("1.2.1", 1.0, 0.5), ("1.2.3", 0.0, 1.0)):
        schedule = schedules.from_config(course.recipe_of(part).schedule)
        assert (schedule.alpha[1], schedule.sigma[1]) == (alpha, sigma)


def test_learning_rate_falls_by_a_tenth_over_the_run_in_steps_of_an_epoch():
    recipe = course.recipe_of("2.5")
    rates = [recipe.learning_rate_at(s, steps_per_epoch=10, epochs=4) for s in range(40)]
    assert rates[0] == rates[9] == 1e-3
    assert rates[10] == pytest.approx(1e-3 * 0.1**0.25)
    assert rates[39] == pytest.approx(1e-3 * 0.1**0.75)
    assert course.recipe_of("1.2.1").learning_rate_at(35, steps_per_epoch=10, epochs=4) == 1e-4


def test_unknown_parts_and_editions_are_one_line():
    for part, edition in (("3.1", "ddpm"), ("1.2.1", "flow"), ("2.5", "score")):
        with pytest.raises(UserError) as error:
            course.recipe_of(part, edition=edition)
        assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_what_the_user_gives_goes_before_the_recipe():
    asked = settings.resolve({"part": "2.6", "width": 32, "epochs": None})
    assert (asked.part, asked.width, asked.epochs, asked.batch_size) == ("2.5", 32, 20, 128)
    assert asked.folder == "runs/part-2.5"
    assert settings.resolve({"part": "2.3", "edition": "flow"}).folder == "runs/part-2.2-flow"


def test_a_part_that_trains_nothing_takes_no_epochs():
    with pytest.raises(UserError, match="--epochs: part 1.1 trains nothing"):
        settings.resolve({"part": "1.1", "epochs": 3})
    assert settings.resolve({"part": "1.1", "width": 32}).epochs == 0


def test_settings_of_another_make_are_one_line():
    good = dataclasses.asdict(settings.resolve({"part": "2.5"}))
    for bad in ({**good, "width": "64"}, {**good, "seed": True}, {**good, "colour": 1}, {}):
        with pytest.raises(UserError, match="run.json: expected"):
            settings.resolve({"part": "2.5"}, bad)


def test_the_courses_recipe_has_no_averaged_weights():
    assert settings.resolve({"part": "2.5", "recipe": "course"}).ema_decay is None
    assert settings.resolve({"part": "2.5"}).ema_decay == 0.999


def test_resuming_takes_the_old_values_and_refuses_others():
    before = dataclasses.asdict(settings.resolve({"part": "2.5", "width": 32, "seed": 3}))
    assert dataclasses.asdict(settings.resolve({"part": "2.6"}, before)) == before
    with pytest.raises(UserError, match="--width was 32 in this run and is 64 now"):
        settings.resolve({"part": "2.5", "width": 64}, before)
    with pytest.raises(UserError, match="--part was 2.5"):
        settings.resolve({"part": "2.2"}, before)


def test_our_own_recipe_differs_where_it_says_and_has_no_one_to_compare_with():
    ours, theirs = (
        settings.resolve({"part": "2.5", "recipe": name}).course for name in ("best", "course")
    )
    assert ours.prediction == "v" and theirs.prediction == "eps"
    assert ours.schedule["name"] == "cosine" and ours.preconditioned and ours.stratified
    assert ours.staff_loss is None and ours.student_losses == ()
    assert ours.conditioning == course.MODULATE and theirs.conditioning == "add"
    same = ("parts", "num_classes", "width", "epochs", "batch_size", "figures")
    assert all(getattr(ours, name) == getattr(theirs, name) for name in same)


@pytest.mark.parametrize("given", [{"part": "1.2.1"}, {"part": "2.5", "edition": "flow"}])
def test_our_own_recipe_is_for_ddpm(given):
    with pytest.raises(UserError) as error:
        settings.resolve({**given, "recipe": "best"})
    said = f"part 2.2 or 2.5 of --edition ddpm, got part {given['part']}, "
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_cosine_rises_and_falls_as_kerass():
    import keras

    recipe = settings.resolve({"part": "2.5", "recipe": "best"}).course
    for steps in (1, 5, 40, 3000):
        warmup, fall = course.rise_and_fall(steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, fall, warmup_target=recipe.learning_rate, warmup_steps=warmup
        )
        for step in {0, warmup - 1, warmup, steps // 2, steps - 1}:
            expected = recipe.learning_rate_at(step, steps_per_epoch=steps, epochs=1)
            assert float(rate(step)) == pytest.approx(expected, abs=1e-8)
