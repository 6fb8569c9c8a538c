"""Records as tables to read."""

from rich.table import Table

from keras_diffusion.benchmarking.variants import SHIPPED


def tables(record):
    """The tables of a record, as benchmark.json has it: a list of `rich.table.Table`."""
    made = [_processes(record) if record["what"] == "startup" else _variants(record)]
    if record["comparison"]:
        made.append(_comparison(record["comparison"]))
    if record.get("growth"):
        made.append(_growth(record["growth"]))
    if record.get("memory"):
        made.append(_memory(record["memory"]))
    return made


def _table(title, *columns):
    made = Table(title=title)
    for name in columns:
        made.add_column(name, justify="right" if made.columns else "left")
    return made


def _variants(record):
    thing = "digits/s" if record["what"] == "sample" else "images/s"
    made = _table(
        f"{record['what']}: {record['machine']['processor']['name']}, {record['machine']['cores']} cores",
        *("", f"{thing}, median", "best", "ms, median", "quartiles"),
        *("of the matrix product's peak", "peak memory, MiB"),
    )
    for row in record["variants"]:
        seconds = row["seconds"]
        made.add_row(
            _called(row),
            f"{row['images_per_second']:.4g}",
            f"{row['best_images_per_second']:.4g}",
            f"{1000 * seconds['median']:.4g}",
            " to ".join(f"{1000 * value:.4g}" for value in seconds["quartiles"]),
            f"{row['share_of_peak']:.1%}" if row["share_of_peak"] else "-",
            _mebibytes(row),
        )
    for precision, peak in record["peaks"].items():
        made.add_row(f"matrix product, {precision}", f"{peak / 1e9:,.0f} GFLOP/s")
    return made


def _called(row):
    """A variant's name; where only some steps were done, how many."""
    if row["side"] == SHIPPED:
        return f"{row['name']} ({row['num_steps']} steps)"
    if row["measured_steps"] and row["measured_steps"] < row["num_steps"]:
        return f"{row['name']} ({row['num_steps']} steps; {row['measured_steps']} done, times {row['num_steps'] / row['measured_steps']:g})"
    return row["name"]


def _comparison(rows):
    made = _table("times as fast", "", "ours", "PyTorch", "median of rounds", "quartiles")
    for row in rows:
        ratio = row["times_as_fast"]
        spread = " to ".join(f"{value:.3g}" for value in ratio["quartiles"])
        made.add_row(row["precision"], row["ours"], row["peer"], f"{ratio['median']:.3g}", spread)
    return made


def _growth(rows):
    made = _table("growth", "", "variant", "images/s", "s", "peak memory, MiB")
    for row in rows:
        for variant in row["variants"]:
            made.add_row(
                f"{row['what']} {row['value']}",
                variant["name"],
                f"{variant['images_per_second']:.4g}",
                f"{variant['seconds']['median']:.4g}",
                _mebibytes(variant),
            )
    return made


def _memory(rows):
    made = _table("memory of drawing, onnxruntime", "images", "s", "peak memory, MiB")
    for row in rows:
        made.add_row(f"{row['images']:,}", f"{row['seconds']:.4g}", _mebibytes(row))
    return made


def _processes(record):
    made = _table(
        "fresh processes", "", "s, median", "best", "quartiles", "peak memory, MiB", "TensorFlow"
    )
    for row in record["processes"]:
        seconds, loaded = row["seconds"], row.get("tensorflow")
        made.add_row(
            row["name"],
            f"{seconds['median']:.3f}",
            f"{seconds['best']:.3f}",
            " to ".join(f"{value:.3f}" for value in seconds["quartiles"]),
            _mebibytes(row),
            "" if loaded is None else "loaded" if loaded else "not loaded",
        )
    return made


def _mebibytes(row):
    if row["memory"] is None:
        return "-"
    text = f"{row['memory'] / 2**20:,.0f}"
    gpu = row.get("gpu_memory")
    return f"{text}, GPU {gpu / 2**20:,.0f}" if gpu else text
