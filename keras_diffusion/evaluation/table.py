"""An evaluation as a table to read."""

from rich.table import Table

_ROWS = (
    ("accuracy", "class accuracy", "share"),
    ("frechet_test", "Fréchet distance from the test set", "distance"),
    ("frechet_train", "Fréchet distance from the training set", "distance"),
    ("kernel_test", "kernel distance (KID) from the test set, x 1000", "kernel"),
    ("kernel_train", "kernel distance (KID) from the training set, x 1000", "kernel"),
    ("precision", "precision", "share"),
    ("recall", "recall", "share"),
    ("density", "density", "number"),
    ("coverage", "coverage", "share"),
)
_SHAPES = {
    "share": (100, "{:.2f}%"),
    "distance": (1, "{:.3f}"),
    "kernel": (1000, "{:.3f}"),
    "number": (1, "{:.3f}"),
}
_OF_SEEDS = (
    ("accuracy", "class accuracy", "{:.2%}"),
    ("frechet", "Fréchet distance from the test set", "{:.4f}"),
    ("over_floor", "times the floor", "{:.3f}"),
    ("network_calls_mean", "network calls", "{:.2f}"),
)


def calls(sampling):
    """How many network calls an image took, in words, of an evaluation's `sampling`."""
    most, mean = sampling["network_calls"], sampling["network_calls_mean"]
    if most == mean:
        return f"{most} network calls"
    return f"{mean:.2f} network calls in the mean, {most} at most"


def table(record):
    """The figures of generated and of real images side by side, with 95% intervals.

    Args:
        record: as evaluation.json.

    Returns:
        `rich.table.Table`.
    """
    count = record["generated"]["count"]
    right = record["judge"]["test_accuracy"]
    made = Table(title=f"{count:,} images, {calls(record['sampling'])}; judge right on {right:.2%}")
    for name in ("", "generated", f"{count:,} real ones"):
        made.add_column(name, justify="right" if name else "left")
    for key, words, kind in _ROWS:
        if key in record["generated"]:
            both = [text(record[some][key], kind) for some in ("generated", "real")]
            made.add_row(words, *both)
            if key == "frechet_test":
                _add_floor(made, record)
    nearer = record["memorisation"]["share_nearer_than_real"]
    made.add_row("nearer to a training image than 99% of real ones", text(nearer, "share"), "1.00%")
    if "conditioning" in record:
        found = record["conditioning"]
        made.add_row(
            "what the class changes in an estimate, of the pixels' range", f"{found['gap']:.3f}", ""
        )
        made.add_row("how much images of a class differ", f"{found['variety']:.2f}", "1")
    trained = record.get("train_on_generated")
    if trained:
        both = [text(trained[some], "share") for some in ("generated", "real")]
        made.add_row("a classifier trained on them, on the test set", *both)
    return made


def _add_floor(made, record):
    """What the distance from the test set is beside: that of sets of as many real images."""
    draws = record["frechet_floor"]["draws"]
    floor = f"{min(draws):.3f} to {max(draws):.3f}, mean {record['frechet_floor']['value']:.3f}"
    made.add_row(f"  the same of {len(draws)} sets of real images", "", floor)
    made.add_row("  times their mean", f"{record['frechet_over_floor']:.2f}", "1")


def seeds(record):
    """A line a seed, then their mean and the standard deviation of one.

    Args:
        record: as evaluation.json, of several seeds.

    Returns:
        `rich.table.Table`.
    """
    columns = [column for column in _OF_SEEDS if column[0] in record["seeds"]["mean"]]
    found = [(str(row["seed"]), row) for row in record["seeds"]["rows"]]
    found += [(name, record["seeds"][name]) for name in ("mean", "deviation")]
    made = Table(title=f"{record['generated']['count']:,} images of each seed")
    for words in ("seed", *(words for _, words, _ in columns)):
        made.add_column(words, justify="right")
    for name, row in found:
        made.add_row(name, *(shape.format(row[key]) for key, _, shape in columns))
    return made


def ablation(record, ways):
    """A line a training: accuracy and distance of each way to draw.

    Args:
        record: as ablation.json.
        ways: names of `ablation.WAYS`.

    Returns:
        `rich.table.Table`.
    """
    made = Table(
        title=f"D = {record['width']}, {record['epochs']} epochs, {record['count']:,} images; distances in units of {record['floor']:.3f}"
    )
    for name in ("", *ways, "minutes"):
        made.add_column(name, justify="right" if name else "left")
    for row in record["rows"]:
        both = [f"{row[way]['accuracy']:.1%}, {row[way]['over_floor']:.1f}" for way in ways]
        made.add_row(row["name"], *both, f"{row['seconds'] / 60:.1f}")
    return made


def text(figure, kind):
    """A figure with its interval."""
    factor, shape = _SHAPES[kind]
    low, high = (shape.format(factor * bound) for bound in figure["interval"])
    return f"{shape.format(factor * figure['value'])} ({low} to {high})"
