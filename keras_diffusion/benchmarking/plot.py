"""The growth of a record as a picture."""

from keras_diffusion import figures
from keras_diffusion.text import count


def plot(path, record):
    """Writes speed and peak memory of each side against what grew, as a PNG.

    Args:
        path: where it goes; ends in .png.
        record: as benchmark.json, with `growth`.
    """
    panels: dict = {}
    for row in record["growth"]:
        for variant in row["variants"]:
            for name, value in (
                ("images/s", variant["images_per_second"]),
                ("peak memory, MiB", variant["memory"] / 2**20),
            ):
                curves = panels.setdefault((row["what"], name), {})
                curves.setdefault(variant["side"], []).append((row["value"], value))
    machine = record["machine"]
    title = f"{record['what']}: {machine['processor']['name']}, {count(machine['cores'], 'core')}"
    figures.growth(path, panels, title=title)
