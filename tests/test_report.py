"""The write-up page: what is shown of which run, what is called missing, and that nothing is invented."""

import csv
import html
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import one_line
from PIL import Image

from keras_diffusion import course, figures, predictions, run_options, runs, schedules, settings
from keras_diffusion.errors import UserError
from keras_diffusion.report import comparison, page, plan
from keras_diffusion.report.cards import Cards
from keras_diffusion.report.found import find, read
from keras_diffusion.report.pictures import Inline
from keras_diffusion.report.sections import SECTIONS

ROOT = pathlib.Path(__file__).parents[1]
IMAGES = 300


def script(name):
    """A program as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(path, *, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size)
    if path.suffix == ".gif":
        image.save(path, save_all=True, append_images=[Image.new("L", size, 255)])
    else:
        image.save(path)


def leave_run(
    folder, part, *, epochs=None, edition="ddpm", status="finished", width=32, data_name="some digits",
    classes=None, size=(40, 20), **values,
):  # fmt: skip
    """A run folder as fit.py leaves it, the losses falling from 1 to 1/step."""
    given = {"part": part, "edition": edition, "width": width, "batch_size": 128, **values}
    asked = settings.resolve(given | ({"epochs": epochs} if epochs else {}))
    recipe, names = asked.course, []
    for epoch in [e for e in recipe.figure_epochs if e < asked.epochs] + [asked.epochs]:
        names += [(f"{name}_epoch_{epoch:03d}.png", epoch) for name in recipe.figures]
    for name in (*recipe.final_figures, *(["loss"] if recipe.epochs else [])):
        if name == "guidance":
            names.append((f"guidance_epoch_{asked.epochs:03d}.png", asked.epochs))
        else:
            names.append(({"animation": "sampling.gif"}.get(name, f"{name}.png"), asked.epochs))
    of = {"samples": -1, "guidance": -1, "sampling": -1}
    shown = {"architecture": {"1": "1.1"}.get(part[0], "2.4" if recipe.num_classes else "2.1")}
    shown |= {"noising": "1.2", "out_of_distribution": "1.2.2"}
    entries = []
    for file, epoch in names:
        picture(folder / "figures" / file, size=size)
        stem = re.sub(r"(_epoch_\d+)?\.\w+$", "", file)
        part_of = shown.get(stem) or recipe.parts[of.get(stem, 0)]
        caption = f"{stem} of {folder.name}"
        entries.append(
            {"file": f"figures/{file}", "part": part_of, "epoch": epoch, "caption": caption}
        )
    record = {
        "format": 1, "status": status, "settings": settings.to_json(asked), "figures": entries,
        "data": {"name": data_name, "train_count": IMAGES}, "parameters": 1234,
        "sessions": [{"machine": {"cpus": 2, "gpus": 0}}],
    }  # fmt: skip
    if classes:
        record["data"]["class_names"] = classes
    (folder / "run.json").write_text(json.dumps(record))
    if recipe.epochs:
        write_metrics(folder, asked)
    return folder


def write_metrics(folder, asked):
    per_epoch = -(-IMAGES // asked.batch_size)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(runs.COLUMNS)
        for step in range(1, asked.epochs * per_epoch + 1):
            rate = 50.0 if step % per_epoch else 22.0  # the last batch is a short one
            writer.writerow([(step - 1) // per_epoch + 1, step, 1 / step, 1e-3, rate])


@pytest.fixture(scope="module", autouse=True)
def curves_drawn_once():
    """Most pages of this file have the same curves, a fifth of a second each; yields the function that draws them."""
    drawn, draw = {}, figures.loss_curves

    def once(curves):
        key = tuple(np.asarray(array, np.float64).tobytes() for curve in curves for array in curve)
        if key not in drawn:
            drawn[key] = draw(curves)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "loss_curves", once)
        yield draw


@pytest.fixture
def place(tmp_path):
    """Every part in both editions, 2.5 at two lengths."""
    folder = tmp_path / "runs"
    for part in ("1.2.1", "1.2.3", "2.2"):
        leave_run(folder / f"part-{part}", part)
    leave_run(folder / "part-2.2-5-epochs", "2.2", epochs=5)
    leave_run(folder / "part-2.5", "2.5")
    leave_run(folder / "part-2.5-5-epochs", "2.5", epochs=5)
    leave_run(folder / "part-2.2-flow", "2.2", edition="flow")
    leave_run(folder / "part-2.5-flow", "2.5", edition="flow")
    return folder


def made(place, **options):
    """(text of the page, what is missing)."""
    out = place.parent / "report"
    missing = page.write(*find(place), out=out, runs_folder=place, **options)
    text = (out / "index.html").read_text(encoding="utf-8")
    return re.sub("<span>([^<]*)</span>", r"\1", text), missing  # words of commands stand in them


def section_of(text, part):
    return re.search(rf'<section id="part-{re.escape(part)}">.*?</section>', text, re.S)[0]


def captions(text):
    return re.findall(r"<figcaption>(.*?)</figcaption>", text)


# --- what the page has to show


def test_every_part_of_the_course_has_its_place_and_every_figure_drawn_has_an_owner():
    assert tuple(section.part for section in SECTIONS) == course.PARTS
    owed = {section.part: {owed.name for owed in section.owes} for section in SECTIONS}
    for edition, recipes in course.RECIPES.items():
        for recipe in recipes:
            drawn = {*recipe.figures, *recipe.final_figures, *(["loss"] if recipe.epochs else [])}
            drawn = {"sampling" if name == "animation" else name for name in drawn}
            places = set().union(*(owed[part] for part in recipe.parts))
            assert drawn - {"architecture", "noising"} <= places
            for part in recipe.parts:
                assert edition in next(s for s in SECTIONS if s.part == part).says


def test_a_whole_page_lacks_nothing(place):
    text, missing = made(place)
    assert missing == []
    assert "Missing" not in text and 'id="missing"' not in text
    assert "part-2.5-5-epochs</p>" in text  # each card says whose it is
    order = re.findall(r'<section id="part-([\d.]+)">', text)
    assert order == list(course.PARTS)


def test_parts_show_the_epochs_that_the_course_names_and_the_last(place):
    text, _ = made(place)
    shown = captions(section_of(text, "2.6").split("<details>")[0])
    assert shown[0] == "samples of part-2.5-5-epochs, epoch 5"
    cards = re.findall(r"<article>.*?</article>", section_of(text, "2.6"), re.S)
    own = [captions(card.split("<details>")[0]) for card in cards]
    epochs = [[int(c.split("epoch ")[1]) for c in card if c.startswith("samples")] for card in own]
    assert epochs == [[5], [5, 20], [5, 10]]  # DDPM of 5 and of 20 epochs, flow
    assert [sum(c.startswith("guidance") for c in card) for card in own] == [1, 1, 1]
    assert [sum(c.startswith("sampling") for c in card) for card in own] == [1, 1, 1]
    more = captions(cards[1].split("<details>")[1])
    assert [int(c.split("epoch ")[1]) for c in more] == [1, 10, 15]
    shown = [
        captions(s) for s in re.findall(r"<article>.*?</article>", section_of(text, "1.2.1"), re.S)
    ]
    assert [c.split(",")[-1] for c in shown[0] if c.startswith("denoised")] == [
        " epoch 1",
        " epoch 5",
    ]


def test_settings_losses_and_commands_stand_in_the_section(place):
    leave_run(place / "part-2.5", "2.5", width=64, seed=3)
    text = html.unescape(section_of(made(place)[0], "2.5"))
    assert "D = 64, 20 epochs of 300 images of some digits in batches of 128" in text
    assert "seed 3" in text and "decay 0.999" in text
    assert "Adam at 0.001, times 0.1^(1/20) after each epoch" in text
    command = f"python scripts/fit.py --part 2.5 --width 64 --seed 3 --out {place}/part-2.5"
    assert f"<code>{command}</code>" in text
    assert re.search(r"course staff, 20 epochs</dt><dd>0.030<", text)
    assert re.search(r"most students</dt><dd>0.025–0.030<", text)
    run = read(place / "part-2.5")
    assert run.final_loss == pytest.approx(np.mean(1 / np.arange(58, 61)))  # the last epoch's 3
    assert f"final loss</dt><dd>{run.final_loss:#.3g}<" in text


@pytest.mark.parametrize(("weights", "comparable"), [
    ({}, True), ({"min_snr": None, "data_std": None}, True), ({"data_std": 0.31}, False), ({"min_snr": 5.0}, False),
])  # fmt: skip
def test_losses_of_other_weights_are_not_compared(weights, comparable):
    recipe = course.recipe_of("2.5")
    one, other = (types.SimpleNamespace(recipe=recipe, record=record) for record in ({}, weights))
    assert (comparison._loss_of(one) == comparison._loss_of(other)) is comparable


def test_other_peoples_losses_are_the_courses():
    """As in the table of course.md."""
    quoted = {
        (recipe.parts[0], edition): (recipe.staff_loss, recipe.student_losses, recipe.epochs)
        for edition, recipes in course.RECIPES.items()
        for recipe in recipes
        if recipe.staff_loss
    }
    assert quoted == {
        ("1.2.1", "ddpm"): (0.0085, (0.008, 0.009), 5),
        ("2.2", "ddpm"): (0.029, (0.026, 0.032), 20),
        ("2.5", "ddpm"): (0.030, (0.025, 0.030), 20),
        ("2.2", "flow"): (0.085, (), 10),
        ("2.5", "flow"): (0.083, (0.093, 0.093), 10),
    }


def test_other_peoples_losses_do_not_stand_beside_other_data_or_unfinished_runs(tmp_path):
    leave_run(tmp_path / "runs" / "part-2.5", "2.5", data_name="fashion", classes=["shoe"] * 10)
    leave_run(tmp_path / "runs" / "part-2.2", "2.2", status="interrupted")
    text, _ = made(tmp_path / "runs")
    assert "course staff, 20" not in text and "0.030" not in text
    assert "loss so far, 20 of 20 epochs done" in text
    assert "DDPM, D = 32, 20 epochs, fashion" in text


def test_digits_are_shown_before_other_data(place):
    leave_run(place / "part-2.5-z", "2.5", width=128, data_name="fashion", classes=["shoe"] * 10)
    text = section_of(made(place)[0], "2.5")
    assert re.findall(r'data-pair="[^"]*">([^<]*)</a>', text) == ["part-2.5-z"]


def test_each_machine_is_named(place):
    path = place / "part-2.5" / "run.json"
    record = json.loads(path.read_text())
    record["sessions"] = [{"machine": {"cpus": 16, "gpus": 1}}, {"machine": {"cpus": 1, "gpus": 0}}]
    path.write_text(json.dumps(record))
    assert "on 1 GPU and 1 CPU core<" in section_of(made(place)[0], "2.5")


@pytest.mark.parametrize("edition", ["ddpm", "flow"])
def test_formulas_are_what_the_package_computes(edition):
    """The page's target as LaTeX, read by hand here, against the code."""
    section = next(s for s in SECTIONS if s.part == "2.2")
    noised, loss = section.formulas[edition]
    x0, eps, t = 0.3, -1.1, 120
    if edition == "ddpm":
        assert noised == r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon"
        assert r"\| \varepsilon - " in loss
        schedule, prediction, expected = schedules.linear_schedule(300), "eps", eps
        bar = np.prod(1 - np.linspace(1e-4, 0.02, 300)[:t])
        written = np.sqrt(bar) * x0 + np.sqrt(1 - bar) * eps
    else:
        assert noised == r"x_t = (1 - \tfrac{t}{T})\, x_0 + \tfrac{t}{T}\, \varepsilon"
        assert r"\| (x_0 - \varepsilon) - " in loss
        schedule, prediction, expected = schedules.flow_schedule(300), "flow", x0 - eps
        written = (1 - t / 300) * x0 + t / 300 * eps
    alpha, sigma = (float(value) for value in schedule.at(float(t)))
    assert alpha * x0 + sigma * eps == pytest.approx(written)
    assert predictions.target(prediction, alpha, sigma, x0=x0, eps=eps) == pytest.approx(expected)
    assert "(x_t, t, c)" in next(s for s in SECTIONS if s.part == "2.5").formulas[edition][1]


def test_training_time_counts_each_image_once(place):
    # 300 images in batches of 128, 128 and 44, 20 times, at 50, 50 and 22 images a second
    assert read(place / "part-2.5").seconds == pytest.approx(20 * (256 / 50 + 44 / 22))
    path = place / "part-2.5" / "metrics.csv"
    path.write_text(path.read_text().replace(",50.0", ",0.0"))  # steps too slow to say
    assert read(place / "part-2.5").seconds == pytest.approx(20 * 44 / 22)


def test_curves_stand_over_the_images_that_were_seen(place, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "loss_curves", lambda curves: drawn.append(curves) or b"<svg/>")
    made(place)
    x, losses = drawn[-1][0]
    assert x[:4].tolist() == [128, 256, 300, 428] and len(x) == len(losses)


def test_the_mean_of_the_last_hundred_steps_stays_within_the_last_epoch(place):
    folder = leave_run(place / "long", "2.5", epochs=2, batch_size=2)  # 150 steps an epoch
    assert read(folder).final_loss == pytest.approx(np.mean(1 / np.arange(201, 301)))


def test_better_runs_are_shown_and_the_others_named(place):
    leave_run(place / "wide", "2.5", width=64)
    leave_run(place / "unfinished", "2.5", width=128, status="interrupted")
    text = section_of(made(place)[0], "2.5")
    assert "loss of wide" in text and "loss of unfinished" not in text
    others = re.findall(r'data-pair="[^"]*">([^<]*)</a>', text)
    assert others == ["part-2.5", "unfinished"]


def test_a_run_of_another_length_is_better_than_none(tmp_path):
    leave_run(tmp_path / "runs" / "demo", "2.5", epochs=8)
    text, missing = made(tmp_path / "runs")
    assert "samples of demo, epoch 8" in text
    lengths = [entry.what for entry in missing if "2.5, DDPM" in entry.what]
    assert lengths == ["2.5, DDPM: a run of 5 epochs", "2.5, DDPM: a run of 20 epochs"]


# --- what is missing


def test_an_empty_folder_gives_a_page_of_commands_that_work(tmp_path):
    (tmp_path / "runs").mkdir()
    text, missing = made(tmp_path / "runs")
    fit = script("fit")
    for entry in missing:
        options = fit.parse(shlex.split(entry.command)[2:])
        assert str(tmp_path / "runs") in options.out
        assert html.escape(entry.command) in text
    assert [entry.what for entry in missing] == [
        "1.1, DDPM; 1.2, DDPM; 1.2.1, DDPM: a run of 5 epochs",  # one run brings all of them
        "2.1, DDPM; 2.2, DDPM: a run of 20 epochs",
        "2.2, DDPM: a run of 5 epochs",
        "2.4, DDPM; 2.5, DDPM: a run of 20 epochs",
        "2.5, DDPM: a run of 5 epochs",
    ]
    assert 'id="part-1.2.3"' not in text  # asked for by one edition only
    assert "1.2.3, 2.2, flow matching, 2.5, flow matching" in text and "--edition flow" in text
    assert 'id="comparison"' not in text


def test_missing_runs_are_asked_for_at_the_size_and_with_the_data_of_the_others(tmp_path):
    leave_run(tmp_path / "runs" / "part-2.5", "2.5", width=24, data="some file.npz")
    _, missing = made(tmp_path / "runs")
    (command,) = [e.command for e in missing if e.what == "2.5, DDPM: a run of 5 epochs"]
    options = script("fit").parse(shlex.split(command)[2:])
    assert (options.width, options.data, options.epochs) == (24, "some file.npz", 5)
    assert options.out == str(tmp_path / "runs" / "part-2.5-5-epochs")
    assert options.batch_size is None


def test_the_missing_runs_of_a_quick_page_are_those_that_quick_makes(tmp_path):
    wanted = plan.wanted("ddpm", **plan.QUICK)
    leave_run(tmp_path / "runs" / wanted[0].name, "1.2.1", **plan.QUICK)
    _, missing = made(tmp_path / "runs")
    fit = script("fit")
    options = [vars(fit.parse(shlex.split(entry.command)[2:])) for entry in missing]
    asked = [
        settings.resolve({k: v for k, v in some.items() if k not in run_options.NAMES})
        for some in options
    ]
    for want in wanted[2:]:  # without 1.2.1, which is there, and 1.2.3, which is optional
        assert want.asked in asked


def test_the_folder_of_a_missing_run_is_not_one_that_is_there(tmp_path):
    leave_run(tmp_path / "runs" / "part-2.5", "2.5", epochs=7)
    _, missing = made(tmp_path / "runs")
    (command,) = [e.command for e in missing if e.what == "2.5, DDPM: a run of 20 epochs"]
    assert script("fit").parse(shlex.split(command)[2:]).out.endswith("part-2.5-2")


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_figure_that_cannot_be_read_is_named_and_left_out(place, how):
    path = place / "part-2.5" / "figures" / "samples_epoch_005.png"
    path.write_bytes(path.read_bytes()[:40]) if how == "damaged" else path.unlink()
    text, missing = made(place)
    (entry,) = missing
    assert (
        entry.what
        == f"figures of part-2.5: samples after epoch 5 ({how}); they take a new training"
    )
    assert entry.command.endswith("--force")
    assert "part-2.5/samples_epoch_005.png" not in text
    assert "part-2.5/samples_epoch_020.png" in text


def test_a_run_that_has_not_ended_shows_what_it_has_and_how_it_goes_on(place):
    leave_run(place / "part-2.5", "2.5", status="running")
    text, missing = made(place)
    (entry,) = missing
    assert "the end of the run part-2.5 (still going on, or killed)" in entry.what
    assert entry.command.endswith("--resume")
    assert "20 of 20" in text


def test_a_run_that_has_not_begun(tmp_path):
    folder = leave_run(tmp_path / "runs" / "part-2.5", "2.5", status="running")
    (folder / "metrics.csv").unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"figures": []}))
    text, _ = made(tmp_path / "runs")
    assert "Nothing is drawn yet" in text and "none yet" in text


def broken_runs():
    good = settings.to_json(settings.resolve({"part": "2.5"}))
    figure = {"file": "figures/loss.png", "part": "2.5", "epoch": 1, "caption": "c"}
    record = {"format": 1, "status": "finished", "figures": [], "settings": good}
    record["data"] = {"name": "digits", "train_count": 5}
    yield "not JSON", "{"
    yield "another format", record | {"format": 2}
    yield "no settings", record | {"settings": {}}
    yield "another part", record | {"settings": good | {"part": "2.7"}}
    yield "another edition", record | {"settings": good | {"edition": "vae"}}
    yield "text for a number", record | {"settings": good | {"width": "wide"}}
    yield "nothing trained on", record | {"data": {"name": "digits", "train_count": 0}}
    yield "no name of the data", record | {"data": {"train_count": 5}}
    yield "figures that are none", record | {"figures": ["loss.png"]}
    yield "a figure elsewhere", record | {"figures": [figure | {"file": "figures/../../loss.png"}]}
    yield "a figure of the system", record | {"figures": [figure | {"file": "/etc/passwd"}]}
    yield "sessions that are none", record | {"sessions": [3]}
    yield "batches of no image", record | {"settings": good | {"batch_size": 0}}
    yield "another recipe", record | {"settings": good | {"recipe": "mine"}}
    yield "machines in words", record | {"sessions": [{"machine": {"gpus": "two"}}]}
    yield "parameters in words", record | {"parameters": "many"}


@pytest.mark.parametrize(("name", "record"), broken_runs(), ids=lambda value: str(value)[:22])
def test_an_unreadable_run_is_named_and_skipped(place, name, record):
    (place / "broken").mkdir()
    (place / "broken" / "run.json").write_text(
        record if isinstance(record, str) else json.dumps(record)
    )
    text, missing = made(place)
    _, ((folder, reason),) = find(place)
    assert folder == "broken" and "\n" not in reason and str(place) not in reason
    assert f"broken: {html.escape(reason, quote=False)}"[:60] in html.unescape(text)
    assert missing == []


@pytest.mark.parametrize(
    "rows",
    [
        "1,1,abc,1,1",
        "1,1,0.5",
        "1,1,0.5,1,-3",
        "1,1,0.5,1,nan",
        "1,2,1,1,1\n1,1,1,1,1",
        "1,0,1,1,1",
    ],
)
def test_metrics_that_are_none_make_a_run_unreadable(place, rows):
    path = place / "part-2.5" / "metrics.csv"
    path.write_text(",".join(runs.COLUMNS) + "\n" + rows + "\n")
    _, ((folder, reason),) = find(place)
    assert folder == "part-2.5" and "metrics.csv" in reason


@pytest.mark.parametrize("lost", ["run.json", "metrics.csv"])
def test_a_run_that_has_lost_a_file_is_named(place, lost):
    (place / "part-2.5" / lost).unlink()
    text, _ = made(place)
    _, ((folder, reason),) = find(place)
    assert folder == "part-2.5" and reason.startswith(lost)
    assert "part-2.5: " + reason in html.unescape(text)


def test_losses_that_are_not_finite_are_called_so(place):
    path = place / "part-2.5" / "metrics.csv"
    path.write_text(",".join(runs.COLUMNS) + "\n1,1,nan,1,1\n1,2,inf,1,1\n")
    assert "not finite" in section_of(made(place)[0], "2.5")


def test_a_folder_that_is_not_there():
    with pytest.raises(UserError) as error:
        find("no-such-runs")
    assert "--quick" in one_line(error)


# --- the page itself


@pytest.mark.parametrize("name", ["a$^$b", "_hidden", "数字", "a(b) c"])
def test_any_name_of_a_folder_will_do(place, name):
    leave_run(place / name, "2.5", width=64)
    text, missing = made(place)
    assert missing == [] and html.escape(name) in text


def test_names_that_are_not_utf8_spoil_nothing(place):
    path = place / "part-2.5" / "run.json"
    record = json.loads(path.read_text())
    record["settings"]["data"] = "caf\udce9.npz"
    path.write_text(json.dumps(record))
    text, _ = made(place, author="Ren\udce9")
    assert "Ren?" in text and "caf?.npz" in text


def test_half_an_animation_is_a_damaged_one(place):
    path = place / "part-2.5" / "figures" / "sampling.gif"
    path.write_bytes(path.read_bytes()[:-20])
    _, (entry,) = made(place)
    assert "sampling (damaged)" in entry.what


def test_many_runs_are_compared_within_their_part(place):
    for k in range(8):
        leave_run(place / f"more-{k}", "2.5", seed=k + 1, epochs=5)
    text, _ = made(place)
    pairs = json.loads(re.search(r'id="pairs">(.*?)</script>', text)[1])
    parts = [run.asked.part for run in page.in_order([r for r in find(place)[0] if r.trained])]
    together = sum(parts[a] == parts[b] for a in range(len(parts)) for b in range(a))
    assert len(parts) == 16 and len(pairs) == together
    assert all(parts[a] == parts[b] for a, b in (map(int, key.split(",")) for key in pairs))


def test_names_cannot_become_markup(place):
    nasty = leave_run(place / "<img src=x onerror=alert(1)> & 'co' #1", "2.5", width=48)
    record = json.loads((nasty / "run.json").read_text())
    record["data"]["name"] = "</script><script>alert(2)</script>"
    record["settings"]["data"] = "a'b\"<i>.npz"
    for figure in record["figures"]:
        figure["caption"] = "</template><b onclick=x>"
    (nasty / "run.json").write_text(json.dumps(record))
    text, _ = made(place, author="<script>alert(3)</script>")
    assert "<script>alert" not in text and "<img src=x" not in text and "<b onclick" not in text
    for source in re.findall(r'(?:src|srcset|href)="([^"#][^"]*)"', text):
        assert not re.search(r"[<>'\s#&]", source), source


def test_every_picture_is_beside_the_page_and_nothing_leads_elsewhere(place):
    text, _ = made(place)
    out = place.parent / "report"
    sources = set(re.findall(r'(?:src|srcset)="([^"]+)"', text))
    assert len(sources) > 30
    for source in sources:
        assert (out / source).is_file(), source
    assert not re.search(r"(https?:)?//(?!www\.w3\.org/1998/Math/MathML)[\w.]+\w", text)


def test_every_image_says_what_it_shows_and_how_large_it_is(place):
    images = re.findall(r"<img [^>]*>", made(place)[0])
    assert images
    for image in images:
        assert re.search(r'alt="[^"]{20,}"', image), image
        assert re.search(r'width="\d+" height="\d+"', image), image
    assert any('width="20" height="10"' in image for image in images)  # PNGs at half their size


def test_a_single_file_holds_everything(place):
    text, _ = made(place, single_file=True)
    names = sorted(path.name for path in (place.parent / "report").iterdir())
    assert names == ["index.html", page.MADE]
    for source in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert source.startswith("data:image/")


def test_the_same_runs_give_the_same_bytes(tmp_path, monkeypatch, curves_drawn_once):
    monkeypatch.setattr(figures, "loss_curves", curves_drawn_once)
    place, curves = tmp_path / "runs", tmp_path / "report" / "comparisons" / "0-1.svg"
    for name, edition in (("a", "ddpm"), ("b", "flow")):
        leave_run(place / name, "2.5", edition=edition)
    first, drawn = made(place)[0], curves.read_bytes()
    assert (made(place)[0], curves.read_bytes()) == (first, drawn)


def test_a_folder_of_somebody_elses_stays(place):
    out = place.parent / "report"
    out.mkdir()
    (out / "index.html").write_text("a home page")  # as any site has
    with pytest.raises(UserError) as error:
        made(place)
    assert page.MADE in one_line(error)
    assert (out / "index.html").read_text() == "a home page"


def test_what_somebody_put_beside_the_page_is_not_lost(place):
    made(place)
    notes = place.parent / "report" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(UserError) as error:
        made(place)
    assert "notes.txt" in one_line(error) and notes.read_text() == "mine"


def test_a_failure_leaves_the_old_page_and_nothing_else(place, monkeypatch):
    made(place)
    index = place.parent / "report" / "index.html"
    before = index.read_text()
    monkeypatch.setattr(page, "comparison", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(place)
    assert index.read_text() == before
    assert sorted(path.name for path in place.parent.iterdir()) == ["report", "runs"]


def test_any_two_runs_can_be_compared(place):
    text, _ = made(place)
    trained = [run for run in find(place)[0] if run.trained]
    pairs = json.loads(re.search(r'id="pairs">(.*?)</script>', text)[1])
    assert len(pairs) == len(trained) * (len(trained) - 1) // 2
    options = re.findall(r'<option[^>]* data-run="([^"]*)"', text.split('name="B"')[0])
    assert sorted(options) == sorted(run.name for run in trained)
    two = [options.index(name) for name in ("part-2.5", "part-2.5-flow")]
    assert not pairs[f"{min(two)},{max(two)}"]["comparable"]
    two = [options.index(name) for name in ("part-2.5", "part-2.5-5-epochs")]
    assert pairs[f"{min(two)},{max(two)}"]["comparable"]


def test_architectures_come_from_the_run_that_is_shown(place):
    leave_run(place / "part-2.4", "2.4", width=128, batch_size=None)
    (card,) = (
        Cards(*find(place), store=Inline(), runs_folder=place).column(SECTIONS[8], "ddpm").cards
    )
    assert SECTIONS[8].part == "2.4" and card.label == "D = 32"


# --- which runs the course asks for


def test_the_course_asks_for_runs_of_5_and_20_epochs():
    asked = [(want.name, want.asked.epochs) for want in plan.wanted("ddpm")]
    assert asked == [
        ("part-1.2.1", 5), ("part-1.2.3", 5), ("part-2.2-5-epochs", 5), ("part-2.2", 20),
        ("part-2.5-5-epochs", 5), ("part-2.5", 20),
    ]  # fmt: skip
    asked = [(want.name, want.asked.epochs) for want in plan.wanted("flow", width=16)]
    assert asked == [("part-2.2-flow", 10), ("part-2.5-flow", 10)]
    assert {want.asked.width for want in plan.wanted("flow", width=16)} == {16}


def test_what_is_done_is_not_done_again(tmp_path):
    values = {"width": 32, "batch_size": 128}
    asked_for = plan.wanted("ddpm", **values)
    leave_run(tmp_path / "under-another-name", "2.5", epochs=20)
    leave_run(tmp_path / "part-2.2", "2.2", epochs=20, status="interrupted")
    left = [(want.name, resume) for want, resume in plan.outstanding(asked_for, find(tmp_path)[0])]
    assert left == [
        ("part-1.2.1", False), ("part-1.2.3", False), ("part-2.2-5-epochs", False),
        ("part-2.2", True), ("part-2.5-5-epochs", False),
    ]  # fmt: skip


def test_the_same_file_by_another_path_is_the_same_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave_run(tmp_path / "part-1.2.1", "1.2.1", data="digits.npz")
    values = {"width": 32, "batch_size": 128, "data": str(tmp_path / "digits.npz")}
    left = plan.outstanding(plan.wanted("ddpm", **values), find(tmp_path)[0])
    assert "part-1.2.1" not in [want.name for want, _ in left]
    values["data"] = str(tmp_path / "others.npz")
    with pytest.raises(UserError):
        plan.outstanding(plan.wanted("ddpm", **values), find(tmp_path)[0])


def test_the_folder_of_another_run_is_refused(tmp_path):
    leave_run(tmp_path / "part-2.5", "2.5", epochs=7)
    with pytest.raises(UserError) as error:
        plan.outstanding(plan.wanted("ddpm", width=32), find(tmp_path)[0])
    assert "part-2.5" in one_line(error) and "--epochs 7 in place of 20" in str(error.value)


CASES = [
    {"part": "2.5"},
    {"part": "2.6", "edition": "flow", "epochs": 3, "width": 8, "seed": 7},
    {"part": "1.2.1", "data": "my digits.npz", "limit": 100, "recipe": "course"},
    {"part": "2.2", "precision": "mixed_bfloat16", "xla": "off", "batch_size": 1},
    {"part": "1.1", "width": 8},
    {"part": "2.4", "edition": "flow", "data": "$HOME; rm"},
]


@pytest.mark.parametrize("given", CASES, ids=str)
@pytest.mark.parametrize("folder", ["runs/part-2.5", "else where/it's"])
def test_the_command_of_a_run_makes_a_run_with_its_settings(given, folder):
    asked = settings.resolve(given)
    options = vars(script("fit").parse(shlex.split(asked.command(folder))[2:]))
    out = options.pop("out") or asked.folder
    again = {name: value for name, value in options.items() if name not in run_options.NAMES}
    assert settings.resolve(again) == asked and out == folder


# --- the program


def report(*arguments, cwd):
    """Runs report.py and fails where it has loaded TensorFlow."""
    code = (
        "import runpy, sys\nsys.argv = ['report.py', *sys.argv[1:]]\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'report.py')!r}, run_name='__main__')\n"
        "finally: assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(cwd.parent)},
    )


def test_the_program_makes_the_page_without_tensorflow(place):
    (place / "broken").mkdir()
    (place / "broken" / "run.json").write_text("{")
    (place / "part-2.5" / "figures" / "loss.png").unlink()
    done = report("--author", "Ada", cwd=place.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("left out: broken: ")
    assert lines[1].startswith(
        "missing: figures of part-2.5: loss (missing); they take a new training: python scripts/fit.py"
    )
    assert lines[2].startswith("all that is missing at once: ")
    assert lines[3] == "8 runs: report/index.html" and len(lines) == 4
    assert "Ada" in (place.parent / "report" / "index.html").read_text()


BAD = [
    ([], "runs"),
    (["--runs", "a-file"], "a-file"),
    (["--runs", ""], "''"),
    (["--runs", "a-run"], "above"),
    (["--quick", "--full"], "--quick"),
    (["--width", "32"], "--width"),
    (["--quick", "--width", "0"], "0"),
    (["--runs", ".", "--out", "a-file"], "a-file"),
    (["--runs", ".", "--out", "theirs"], "theirs"),
    (["--quick", "--out", "theirs"], "theirs"),
    (["--nonsense"], "--nonsense"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=lambda value: " ".join(value))
def test_wrong_input_is_one_line_and_status_2(tmp_path, arguments, named):
    (tmp_path / "a-file").touch()
    for name in ("theirs", "a-run"):
        (tmp_path / name).mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / "a-run" / "run.json").touch()
    before = sorted(tmp_path.rglob("*"))
    done = report(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and named in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


FAKE_FIT = """
import sys, pathlib
sys.path[:0] = [{tests!r}, {root!r}]
from test_report import leave_run, script
options = script("fit").parse(sys.argv[1:])
with open("calls.txt", "a") as file: print(options.part, options.epochs, options.resume, file=file)
if options.part == {stops!r} and not options.resume:
    leave_run(pathlib.Path(options.out), options.part, status="interrupted", width=options.width,
        data=options.data, batch_size=options.batch_size, **({{"epochs": options.epochs}} if options.epochs else {{}}))
    sys.exit(130)
leave_run(pathlib.Path(options.out), options.part, edition=options.edition or "ddpm", width=options.width,
    data=options.data, batch_size=options.batch_size, **({{"epochs": options.epochs}} if options.epochs else {{}}))
"""


def test_quick_trains_what_is_missing_stops_and_goes_on(tmp_path, monkeypatch, capsys):
    program = script("report")
    fake = tmp_path / "fit.py"
    fake.write_text(FAKE_FIT.format(tests=str(ROOT / "tests"), root=str(ROOT), stops="1.2.3"))
    monkeypatch.setattr(program, "FIT", fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", "--quick", "--width", "8"])
    with pytest.raises(KeyboardInterrupt):
        program.main()
    assert not (tmp_path / "report").exists()
    assert program.main() == 0
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert calls[:3] == ["1.2.1 None False", "1.2.3 None False", "1.2.3 None True"]
    assert len(calls) == 2 + 7
    assert program.main() == 0  # everything is there
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == len(calls)
    found, unreadable = find(tmp_path / "runs" / "quick")
    assert len(found) == 8 and not unreadable
    assert {run.asked.width for run in found} == {8}
    assert "missing" not in capsys.readouterr().out


def test_a_training_that_fails_ends_the_program(tmp_path, monkeypatch):
    program = script("report")
    fake = tmp_path / "fit.py"
    fake.write_text("import sys; sys.exit(2)")
    monkeypatch.setattr(program, "FIT", fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", "--quick"])
    with pytest.raises(UserError) as error:
        program.main()
    assert "status 2" in one_line(error)
