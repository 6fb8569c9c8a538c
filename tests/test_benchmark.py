"""scripts/benchmark.py: statistics with known answers, counts by hand, the peer's loops, and small runs from end to end."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from keras_diffusion.benchmarking import (
    clock,
    comparing,
    flops,
    fresh,
    machine,
    table,
    tasks,
    variants,
    workers,
)
from keras_diffusion.benchmarking.variants import OURS, PEER, SHIPPED, Variant
from keras_diffusion.errors import UserError
from keras_diffusion.sampling import onnx_model

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["--width", "8", "--rounds", "2", "--threads", "1", "--device", "cpu"]
RUNNER = """
import runpy, sys
sys.argv = ["benchmark.py", *sys.argv[1:]]
try:
    runpy.run_path({path!r}, run_name="__main__")
finally:
    loaded = [name for name in ("tensorflow", "keras", "torch", "matplotlib") if name in sys.modules]
    assert not loaded, loaded
"""


def benchmark(*arguments, cwd, code=None):
    start = [ROOT / "scripts" / "benchmark.py"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=cwd, capture_output=True, text=True, timeout=1800
    )


def test_a_summary_is_over_all_rounds():
    found = clock.summary([[4.0, 1.0], [2.0], [3.0, 5.0]])
    assert found == {"median": 3.0, "best": 1.0, "quartiles": [2.0, 4.0], "count": 5}


def test_a_ratio_is_taken_within_rounds_so_that_a_slow_round_cancels():
    ours, theirs = [[1.0, 9.0, 1.0], [10.0], [2.0]], [[2.0], [20.0], [8.0]]
    found = clock.times_as_fast(ours, theirs)
    assert found == {"median": 2.0, "quartiles": [2.0, 3.0]}


def test_each_round_runs_each_once_and_begins_with_another():
    order = []
    times = clock.in_turn({name: lambda n=name: [order.append(n) or 1.0] for name in "abc"}, 4)
    assert "".join(order) == "abcbcacababc"
    assert times == {name: [[1.0]] * 4 for name in "abc"}


def course_flops(width):
    """Of the class-conditioned UNet on 28 x 28, by hand: 2 x positions x kernel x channels in x channels out."""
    d = width
    at28 = 9 * (1 * d + d * d) + 9 * (2 * d * d + d * d) + 9 * (d * d) + 9 * d
    at28 += 9 * d * d  # up2's second convolution; its first is counted above
    at14 = (
        9 * (d * d + 2 * d * d) + 9 * 2 * d * d + 16 * 2 * d * d
    )  # down1; up1's two; up2's transposed
    at7 = 9 * (d * 2 * d + 2 * 4 * d * d) + 16 * 4 * d * d  # down2; up1's transposed, from 7 x 7
    at1 = 49 * 4 * d * d
    dense = (1 * 2 * d + 4 * d * d) + (d + d * d) + (10 * 2 * d + 4 * d * d) + (10 * d + d * d)
    return 2 * (784 * at28 + 196 * at14 + 49 * at7 + at1 + dense)


def test_operations_are_those_counted_by_hand_and_by_pytorch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from keras_diffusion import nn
    from keras_diffusion.benchmarking.peer_unet import UNet

    counted = flops.forward(nn.unet(width=8, num_classes=10))
    assert counted == course_flops(8)
    with FlopCounterMode(display=False) as counter:
        UNet(width=8, num_classes=10)(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1))
    assert counted == counter.get_total_flops()


def test_operations_of_a_network_inside_a_network_count():
    from keras_diffusion import nn, schedules

    inner = nn.unet(width=8)
    schedule = schedules.linear_schedule(300)
    outer = nn.precondition(inner, schedule, prediction="v", mean=0.1, std=0.3)
    assert flops.forward(outer) == flops.forward(inner) > 0


def test_the_peers_loop_draws_what_its_network_knows():
    """A network that knows that every image is grey, with the class, and darker without: guidance 5 goes beyond."""
    torch = pytest.importorskip("torch")
    from keras_diffusion.benchmarking import peer

    schedule, calls = peer.Schedule("cpu"), []

    def network(x, t, label):
        calls.append(float(t[0]))
        alpha_bar = schedule.alpha_bar[round(300 * float(t[0]))]
        grey = torch.where(label == 10, 0.5, 0.6)[:, None, None, None]
        return (x - alpha_bar.sqrt() * grey) / (1 - alpha_bar).sqrt()

    torch.manual_seed(0)
    drawn = peer.draw(network, schedule, torch.tensor([0, 9, 10]))
    np.testing.assert_allclose(drawn[:2], 1.0, atol=2e-3)  # 0.5 + 5 * (0.6 - 0.5)
    np.testing.assert_allclose(drawn[2], 0.5, atol=2e-3)
    assert len(calls) == 600 and calls[0] == 1.0 and calls[-1] == pytest.approx(1 / 300)
    calls.clear()
    peer.draw(network, schedule, torch.tensor([0]), num_steps=3)
    assert len(calls) == 6


def test_the_peers_tables_and_loss_are_those_of_our_schedule():
    torch = pytest.importorskip("torch")
    from keras_diffusion import schedules
    from keras_diffusion.benchmarking import peer

    ours, theirs = schedules.linear_schedule(300), peer.Schedule("cpu")
    np.testing.assert_allclose(theirs.alpha_bar.sqrt(), ours.alpha, rtol=1e-5)
    np.testing.assert_allclose((1 - theirs.alpha_bar).sqrt(), ours.sigma, rtol=1e-3)
    seen = []

    def network(xt, t, label):
        seen.append(label)
        index = torch.round(300 * t).long()
        eps = (xt - 0.7 * theirs.alpha_bar[index].sqrt()[:, None, None, None]) / (
            1 - theirs.alpha_bar[index]
        ).sqrt()[:, None, None, None]
        return eps + 0.5

    torch.manual_seed(0)
    x0 = torch.full((2000, 1, 4, 4), 0.7)
    loss = peer.training_loss(network, theirs, x0, torch.full((2000,), 3))
    assert loss.item() == pytest.approx(0.25, abs=1e-3)
    assert set(seen[0].tolist()) == {3, 10}
    assert float((seen[0] == 10).float().mean()) == pytest.approx(0.1, abs=0.03)


def row(name, side, precision, *rounds):
    seconds = clock.summary(rounds)
    kind = {"device": {"kind": "cpu"}}
    return {"name": name, "side": side, "precision": precision, "seconds": seconds, **kind}


def test_the_best_of_each_side_is_compared_in_each_precision_and_in_any():
    times = {"a": [[4.0], [4.0]], "b": [[2.0], [2.0]], "c": [[8.0], [6.0]], "d": [[5.0], [3.0]]}
    rows = [
        row("a", OURS, "float32", *times["a"]),
        row("b", OURS, "mixed_bfloat16", *times["b"]),
        row("c", PEER, "float32", *times["c"]),
        row("d", PEER, "float32", *times["d"]),
    ]
    found = {one["precision"]: one for one in comparing.comparison(rows, times)}
    assert set(found) == {"float32", "best"}
    assert (found["float32"]["ours"], found["float32"]["peer"]) == ("a", "d")
    assert found["float32"]["times_as_fast"]["median"] == 1.0  # of 5/4 and 3/4
    assert (found["best"]["ours"], found["best"]["times_as_fast"]["median"]) == ("b", 2.0)
    rows.append(row("e", SHIPPED, "float32", [0.5], [0.5]))
    times["e"] = [[0.5], [0.5]]
    last = comparing.comparison(rows, times)[-1]
    assert (last["ours"], last["peer"], last["times_as_fast"]["median"]) == ("e", "d", 8.0)
    rows[-1]["device"] = {"kind": "gpu"}
    assert all(one["ours"] != "e" for one in comparing.comparison(rows, times))


def test_pytorchs_share_of_the_peak_counts_the_operations_of_our_network():
    same = {"task": "train", "width": 8, "batch_size": 4, "num_steps": None, "peak": 100.0}
    ours = {**same, "side": OURS, "flops": 300, "seconds": {"median": 4.0}}
    peer = {**same, "side": PEER, "seconds": {"median": 6.0}}
    other = {**same, "side": PEER, "width": 16, "seconds": {"median": 6.0}}
    shares = [one["share_of_peak"] for one in comparing.with_shares([ours, peer, other])]
    assert shares == [0.75, 0.5, None]


BAD = [
    ([], "train|sample|startup"),
    (["fly"], "fly"),
    (["train", "--width", "0"], "--width"),
    (["train", "--precisions", "float32,float31"], "float31"),
    (["train", "--precisions", "float32,float32"], "each once"),
    (["train", "--ours", "eager"], "--ours"),
    (["train", "--peer", "none,eager"], "--peer"),
    (["train", "--batch-sizes", "32"], "--growth"),
    (["train", "--growth", "--batch-sizes", "32,x"], "'x'"),
    (["sample", "--measured-steps", "301"], "301"),
    (["sample", "--growth-rounds", "2"], "--growth"),
    (["sample", "--model", "none.onnx"], "none.onnx"),
    (["startup", "--precisions", "float32"], "--precisions"),
    (["train", "--out", "."], "a-file"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_bad_arguments_are_one_line_before_anything_heavy_is_loaded(tmp_path, arguments, says):
    (tmp_path / "a-file").touch()
    code = RUNNER.format(path=str(ROOT / "scripts" / "benchmark.py"))
    done = benchmark(*arguments, cwd=tmp_path, code=code)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_help_loads_nothing_heavy(tmp_path):
    code = RUNNER.format(path=str(ROOT / "scripts" / "benchmark.py"))
    for arguments in (["--help"], ["train", "--help"]):
        done = benchmark(*arguments, cwd=tmp_path, code=code)
        assert done.returncode == 0 and "usage" in done.stdout and not done.stderr


def test_a_worker_says_why_it_cant(tmp_path):
    with pytest.raises(UserError, match="tf32 on a GPU only"):
        workers.Worker(Variant(OURS, "product", precision="tf32"), device="cpu", threads=1)
    (tmp_path / "not.onnx").write_bytes(b"no graph")
    broken = Variant(SHIPPED, "draw", batch_size=1, model=str(tmp_path / "not.onnx"))
    with pytest.raises(UserError, match="not.onnx: expected"):
        workers.Worker(broken, device="cpu", threads=1)


def test_a_variant_that_fails_is_left_out_with_its_reason():
    said = []
    wrong = Variant(SHIPPED, "fly")
    right = Variant(SHIPPED, "draw", batch_size=1, num_steps=2)
    with workers.started([wrong, right], say=said.append, device="cpu", threads=1) as found:
        there, left_out = found
        assert [worker.variant for worker in there] == [right]
        assert there[0].says["num_steps"] == 2
        assert all(seconds > 0 for seconds in there[0].run(2))
        assert there[0].memory()["memory"] > 2**20
    assert list(left_out) == [wrong.name] and "KeyError" in left_out[wrong.name]
    assert len(said) == 1 and wrong.name in said[0]
    assert there[0]._process.returncode is not None


def test_a_process_that_ends_otherwise_than_it_should_is_an_error(tmp_path):
    environment = workers.environment("cpu", 1)
    with pytest.raises(UserError, match="expected it to end with status 0, got 3"):
        fresh.seconds_of(["-c", "raise SystemExit(3)"], 0, None, environment)
    with pytest.raises(UserError, match="status 0, got 0"):  # it doesn't make its file
        fresh.seconds_of(["-c", "pass"], 0, str(tmp_path / "digits.png"), environment)
    program = tmp_path / "program.py"
    program.write_text("held = bytearray(64 << 20)\n")
    found = fresh.looked_at([str(program)], 0, None, environment)
    assert 64 << 20 < found["memory"] < 200 << 20 and found["tensorflow"] is False


def test_a_small_training_benchmark(tmp_path):
    pytest.importorskip("torch")
    arguments = [*TINY, "--batch-size", "8", "--steps", "2", "--peer", "channels_last"]
    growth = ["--growth", "--batch-sizes", "4", "--widths", "4", "--growth-rounds", "1"]
    done = benchmark("train", *arguments, *growth, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "benchmark" / "train"
    assert sorted(path.name for path in folder.iterdir()) == ["benchmark.json", "growth.png"]
    record = json.loads((folder / "benchmark.json").read_text())
    ours, peer = record["variants"]
    assert (ours["side"], peer["side"], peer["mode"]) == (OURS, PEER, "channels_last")
    assert ours["parameters"] == peer["parameters"]
    assert ours["flops"] == peer["flops"] == 3 * 8 * course_flops(8)
    for one in (ours, peer):
        assert [len(some) for some in one["rounds"]] == [2, 2]
        assert one["images_per_second"] == pytest.approx(8 / np.median(one["rounds"]))
        speed = one["flops"] / one["seconds"]["median"]
        assert one["share_of_peak"] == pytest.approx(speed / record["peaks"]["float32"])
        assert one["memory"] > 100 * 2**20 and one["gpu_memory"] is None
    ratios = np.median(peer["rounds"], axis=1) / np.median(ours["rounds"], axis=1)
    assert record["comparison"][0]["times_as_fast"]["median"] == pytest.approx(np.median(ratios))
    points = [(one["what"], one["value"], len(one["variants"])) for one in record["growth"]]
    assert points == [("batch size", 4, 2), ("width D", 4, 2)]
    assert record["growth"][0]["variants"][0]["batch_size"] == 4
    assert record["settings"]["width"] == 8 and record["machine"]["versions"]["keras"]
    assert "PyTorch, train, channels_last, float32" in done.stdout


def test_a_small_drawing_benchmark(tmp_path):
    arguments = [*TINY, "--digits", "3", "--steps", "1", "--measured-steps", "2"]
    more = ["--peer", "eager", "--images", "6", "--growth", "--step-counts", "1", "--growth-rounds"]
    done = benchmark("sample", *arguments, *more, "1", "--image-counts", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "benchmark" / "sample" / "benchmark.json").read_text())
    shipped, ours, peer = record["variants"]
    assert [one["side"] for one in (shipped, ours, peer)] == [SHIPPED, OURS, PEER]
    steps = len(onnx_model.load().plan())
    assert shipped["num_steps"] == steps and shipped["share_of_peak"] is None
    assert ours["flops"] == peer["flops"] == 2 * 300 * 3 * course_flops(8)
    assert [one["ours"] for one in record["comparison"]] == [ours["name"]] * 2 + [shipped["name"]]
    assert [one["images"] for one in record["memory"]] == [3, 6]
    assert [(one["what"], one["value"]) for one in record["growth"]] == [
        ("steps", 1),
        ("images", 2),
    ]
    assert record["growth"][0]["variants"][0]["num_steps"] == 1
    assert "PyTorch, draw, eager, float32 (300 steps; 2 done, times 150)" in done.stdout


def test_a_small_startup_benchmark(tmp_path):
    arguments = [*TINY[:2], "--rounds", "1", *TINY[4:], "--batch-size", "4", "--peer", "none"]
    done = benchmark("startup", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "benchmark" / "startup" / "benchmark.json").read_text())
    rows = {one["name"]: one for one in record["processes"]}
    for name in ("fit.py --help", "fit.py, a bad argument", "ten digits on the disk"):
        assert rows[name]["tensorflow"] is False and rows[name]["memory"] > 2**20
        assert rows[name]["seconds"]["median"] > rows["Python alone"]["seconds"]["median"]
    step = rows[f"first training step, {OURS}"]
    assert step["memory"] > rows["fit.py --help"]["memory"] and len(step["rounds"]) == 1


def test_first_steps_are_compared_with_the_best_of_pytorchs_that_can_be_done(monkeypatch):
    """And the machine's load is taken before any of it."""
    done = []
    seconds, now = {"auto": 6.0, "eager": 3.0, "channels_last": 2.0}, [0.0]

    class Worker:
        """One whose step takes as long as the clock below says."""

        says = {"device": {"kind": "cpu"}}

        def __init__(self, variant, **_):
            done.append(variant.mode)
            self.mode = variant.mode
            if variant.mode == "compile":
                raise workers.Failed("no compiler")

        def run(self, count):
            if self.mode not in seconds:
                raise workers.Failed("it ended (status -9)")
            now[0] += seconds[self.mode]

        def memory(self):
            return {"memory": 1}

        def close(self):
            pass

    monkeypatch.setattr(fresh, "commands", lambda *_, **__: {})
    monkeypatch.setattr(workers, "Worker", Worker)
    monkeypatch.setattr(tasks.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tasks, "has_torch", lambda: True)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (len(done), 0, 0))
    peer = ["eager", "compile", "channels_last"]
    asked = types.SimpleNamespace(what="startup", model=None, width=8, batch_size=4, peer=peer)
    said = []
    record = tasks.startup(asked, comparing.Measuring(2, 1, "cpu", 1, said.append), scripts="")
    assert record["machine"]["load"] == 0
    assert len(done) == 4 + 2 * 3 and done.count("compile") == 1
    assert record["left_out"] == {"first training step, PyTorch, compile": "no compiler"}
    assert said == ["left out: first training step, PyTorch, compile: no compiler"]
    (one,) = record["comparison"]
    assert one["ours"] == "first training step, ours"
    assert one["peer"] == "first training step, PyTorch, channels_last"
    assert one["times_as_fast"]["median"] == pytest.approx(2 / 6)
    assert [one.title for one in table.tables(record)] == ["fresh processes", "times as fast"]
    said.clear()
    monkeypatch.setattr(
        Worker,
        "says",
        property(lambda self: {"device": {"kind": "cpu" if self.mode == "auto" else "gpu"}}),
    )
    asked.peer = ["eager"]
    record = tasks.startup(asked, comparing.Measuring(2, 1, "cpu", 1, said.append), scripts="")
    assert record["comparison"] == [] and len(record["processes"]) == 2
    ours, theirs = "first training step, ours", "first training step, PyTorch, eager"
    assert said == [f"not compared: {ours} is on the cpu, {theirs} on the gpu"]
    del seconds["auto"]
    with pytest.raises(UserError, match=r"^first training step, ours: it ended \(status -9\)$"):
        tasks.startup(asked, comparing.Measuring(1, 1, "cpu", 1, said.append), scripts="")


@pytest.mark.parametrize("what", ["train", "sample"])
def test_the_load_is_what_there_was_before(monkeypatch, what):
    class Measured(Exception):
        pass

    def compare(*_, **__):
        raise Measured

    looked = []
    monkeypatch.setattr(machine, "describe", lambda: looked.append(True))
    monkeypatch.setattr(comparing, "compare", compare)
    asked = types.SimpleNamespace(
        what=what, model=None, width=8, batch_size=4, digits=1, measured_steps=1,
        precisions=["float32"], ours=["auto"], peer=[],
    )  # fmt: skip
    with pytest.raises(Measured):
        getattr(tasks, what)(asked, comparing.Measuring(1, 1))
    assert looked == [True]


def test_made_up_digits_are_as_the_pipelines_want_them():
    images, labels = variants.made_up_digits(50)
    assert images.shape == (50, 28, 28, 1) and images.dtype == np.uint8 and images.max() > 250
    assert labels.shape == (50,) and set(labels) <= set(range(10))
