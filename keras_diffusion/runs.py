"""A run folder says everything about itself: what was asked, on which data, with which versions, and how far it came.

OUT/run.json  metrics.csv  model.keras  checkpoints/step-00000469.keras  figures/*.png
"""

import contextlib
import csv
import json
import os
import pathlib

from keras_diffusion.errors import UserError

FORMAT = 1
COLUMNS = ("epoch", "step", "loss", "learning_rate", "images_per_second")


@contextlib.contextmanager
def replacing(path):
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, else it is removed."""
    path = pathlib.Path(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


class Run:
    """A run folder.

    Args:
        folder: path; nothing is made before `create`.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.figures = self.folder / "figures"
        self.checkpoints = self.folder / "checkpoints"
        self.metrics = self.folder / "metrics.csv"
        self.model = self.folder / "model.keras"
        self._record = self.folder / "run.json"

    def exists(self):
        """Whether there is a run.json."""
        return self._record.is_file()

    def create(self):
        """Makes the folders.

        Raises:
            UserError: where that can't be done.
        """
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out: expected a folder that can be written, got {self.folder} ({error.strerror})"
            ) from None

    def read(self):
        """run.json.

        Raises:
            UserError: where it is unreadable or of another format.
        """
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self._record}: expected a readable run.json, got: {error}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UserError(
                f"{self._record}: expected a run.json of format {FORMAT}, got another one"
            )
        return record

    def write(self, record):
        """Replaces run.json."""
        with replacing(self._record) as path:
            path.write_text(
                json.dumps({"format": FORMAT, **record}, indent=2) + "\n", encoding="utf-8"
            )

    def update(self, **changes):
        """Changes fields of run.json."""
        self.write({**self.read(), **changes})

    def clear(self):
        """Removes what an earlier run left; run.json first, so that what remains is never taken for a run."""
        for path in [self._record, self.metrics, self.model, *self.figures.glob("*")]:
            path.unlink(missing_ok=True)
        for path in self.checkpoint_files():
            path.unlink()

    def checkpoint_files(self):
        """Checkpoints, the newest last."""
        return sorted(self.checkpoints.glob("step-*.keras"))

    def checkpoint_at(self, step):
        """Path of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.keras"

    def read_metrics(self):
        """Rows of metrics.csv as dicts of numbers."""
        if not self.metrics.is_file():
            return []
        with self.metrics.open(newline="", encoding="utf-8") as file:
            return [
                {
                    name: int(row[name]) if name in ("epoch", "step") else float(row[name])
                    for name in COLUMNS
                }
                for row in csv.DictReader(file)
            ]

    def cut_metrics(self, step):
        """Removes the rows after a step, and makes the file where there is none."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        with replacing(self.metrics) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(format_metrics(row) for row in rows)


def format_metrics(row):
    """A row of metrics.csv as text."""
    return {
        "epoch": row["epoch"],
        "step": row["step"],
        "loss": f"{row['loss']:.9g}",
        "learning_rate": f"{row['learning_rate']:.9g}",
        "images_per_second": f"{row['images_per_second']:.1f}",
    }
