"""Both sides of a task measured in turn, beside the machine's own peak, and what that comes to."""

from collections.abc import Callable
from dataclasses import dataclass

from keras_diffusion.benchmarking import clock, workers
from keras_diffusion.benchmarking.variants import OURS, PEER, SHIPPED, Variant
from keras_diffusion.errors import UserError


@dataclass(frozen=True)
class Measuring:
    """How variants are measured.

    Attributes:
        rounds, steps: how many rounds, and steps of each variant in each.
        device: "auto", "cpu" or "gpu".
        threads: of each variant; None: as its libraries like.
        say: function of a line.
    """

    rounds: int
    steps: int
    device: str = "auto"
    threads: int | None = None
    say: Callable = print

    def started(self, variants):
        """`workers.started` of these variants."""
        return workers.started(variants, say=self.say, device=self.device, threads=self.threads)


def compare(variants, how, *, products=()):
    """Measures variants in turn.

    Args:
        variants: list of `Variant`, all of one task.
        how: `Measuring`.
        products: precisions whose matrix product is measured in the same rounds, on each side that is there.

    Returns:
        Dict of `variants` (list of dicts), `peaks` (dict of a precision to operations per second), `left_out` (dict of
        names to reasons), `comparison` (list of dicts, a row a precision: the best of each side).

    Raises:
        UserError: where nothing of ours can be measured.
    """
    sides = {variant.side for variant in variants} - {SHIPPED}
    extra = [
        Variant(side, "product", precision=precision)
        for precision in products
        for side in (OURS, PEER)
        if side in sides
    ]
    with how.started([*extra, *variants]) as (there, left_out):
        there = _on_one_device(there, left_out, how.say)
        if not any(w.variant.side != PEER and w.variant.task != "product" for w in there):
            reasons = "; ".join(left_out.values())
            raise UserError(f"expected something of ours to measure, got nothing: {reasons}")
        times = workers.measured(there, rounds=how.rounds, steps=how.steps)
        peaks = _peaks(there, times)
        rows = [_row(worker, times, peaks) for worker in there if worker.variant.task != "product"]
    tell_of_devices(rows, how.say)
    return {
        "variants": rows,
        "peaks": peaks,
        "left_out": left_out,
        "comparison": comparison(rows, times),
    }


def _on_one_device(there, left_out, say):
    """Those of PyTorch's workers that are on our device; a GPU against a CPU is no comparison."""
    ours = {w.says["device"]["kind"] for w in there if w.variant.side == OURS}
    kept = []
    for worker in there:
        kind = worker.says["device"]["kind"]
        if worker.variant.side != PEER or not ours or kind in ours:
            kept.append(worker)
            continue
        reason = f"PyTorch is on the {kind}, ours on the {ours.copy().pop()}"
        left_out[worker.variant.name] = reason
        say(f"left out: {worker.variant.name}: {reason}")
    return kept


def _peaks(there, times):
    """The most operations per second that a matrix product came to on either side, by precision."""
    peaks: dict = {}
    for worker in there:
        if worker.variant.task == "product":
            best = clock.summary(times[worker.variant.name])["best"]
            precision = worker.variant.precision
            peaks[precision] = max(peaks.get(precision, 0.0), worker.says["flops"] / best)
    return peaks


def _row(worker, times, peaks):
    """What a variant's times come to."""
    variant = worker.variant
    rounds = times[variant.name]
    seconds = clock.summary(rounds)
    # PyTorch runs the same network, so its operations are those that are counted on ours.
    return {
        "name": variant.name,
        **variant.to_json(),
        **worker.says,
        "rounds": rounds,
        "seconds": seconds,
        "images_per_second": variant.batch_size / seconds["median"],
        "best_images_per_second": variant.batch_size / seconds["best"],
        "idle_cpu": worker.idle_cpu,
        "peak": peaks.get(variant.precision),
        **worker.memory(),
    }


def with_shares(rows):
    """Adds to each row the share of the peak; rows without a count of operations take that of a row of the same work."""
    counts = {_work(row): row["flops"] for row in rows if "flops" in row}
    for row in rows:
        operations = row.get("flops", counts.get(_work(row)))
        known = operations and row["peak"] and row["side"] != SHIPPED
        row["flops"] = operations if row["side"] != SHIPPED else None
        row["share_of_peak"] = (
            operations / row["seconds"]["median"] / row["peak"] if known else None
        )
    return rows


def _work(row):
    return tuple(row[name] for name in ("task", "width", "batch_size", "num_steps"))


def comparison(rows, times):
    """The best of each side (of the least median), a row a precision, then of all precisions; a CPU isn't set beside a GPU.

    Args:
        rows: as `compare` makes them.
        times: dict of their names to lists over rounds of lists of seconds.

    Returns:
        List of dicts: `precision` ("best" where each side has its own), `ours`, `peer` (names), `times_as_fast`; empty without
        both sides.
    """
    found = []
    for precision in [*dict.fromkeys(row["precision"] for row in rows), None]:
        some = [row for row in rows if precision in (None, row["precision"])]
        ours = _best([row for row in some if row["side"] == OURS])
        found += _beside_the_best(precision or "best", ours, some, times)
    for shipped in (row for row in rows if row["side"] == SHIPPED):
        found += _beside_the_best("best", shipped, rows, times)
    return found


def tell_of_devices(rows, say):
    """Says which rows can't be compared, since one ran on a GPU and one on a CPU."""
    for ours in (row for row in rows if row["side"] != PEER):
        for peer in (row for row in rows if row["side"] == PEER):
            if _kind(ours) != _kind(peer):
                say(
                    f"not compared: {ours['name']} is on the {_kind(ours)}, {peer['name']} on the {_kind(peer)}"
                )


def _kind(row):
    return row["device"]["kind"]


def _best(rows):
    return min(rows, key=lambda row: row["seconds"]["median"], default=None)


def _beside_the_best(precision, ours, rows, times):
    """A row of ours beside the best of PyTorch's on such a device: a list of one dict, or of none where there is no such pair."""
    peers = [row for row in rows if row["side"] == PEER and ours and _kind(row) == _kind(ours)]
    peer = _best(peers)
    if peer is None:
        return []
    ratio = clock.times_as_fast(times[ours["name"]], times[peer["name"]])
    names = {"ours": ours["name"], "peer": peer["name"]}
    return [{"precision": precision, **names, "times_as_fast": ratio}]


def growth(points, how):
    """Measures the same at other sizes, the sides of each point in turn, in processes of their own.

    Args:
        points: list of (what grows, its value, list of `Variant`).
        how: `Measuring`.

    Returns:
        List of dicts: `what`, `value`, `variants` (as `compare` has them), `comparison`.
    """
    rows = []
    for what, value, variants in points:
        how.say(f"{what} {value}")
        found = compare(variants, how)
        with_shares(found["variants"])
        rows.append({"what": what, "value": value, **found})
    return rows
