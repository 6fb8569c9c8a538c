"""A run folder says everything about itself: what was asked, on which data, with which versions, and how far it came.

OUT/run.json  metrics.csv  model.keras  checkpoints/step-00000469.keras  figures/*.png
"""

import contextlib
import csv
import json
import os
import pathlib
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

from keras_diffusion.errors import UserError, shown
from keras_diffusion.files import read_json, replacing

FORMAT = 1
COLUMNS = ("epoch", "step", "loss", "learning_rate", "images_per_second")
MAX_METRICS = 2**28  # bytes of metrics.csv: some six million steps
MAX_COUNT = 2**53  # of whatever is counted: floats know the integers up to there
DISTILLED = "distilled"  # what of run.json says how a student was made; a part's run has none
EXPORT, EVALUATION, SWEEP = MADE = ("export", "evaluation", "sweep")  # folders made of a run
_KINDS = {str: "text", dict: "an object", list: "a list"}
_REQUIRED = {"status": str, "settings": dict, "data": dict, "figures": list}


class Run:
    """A run folder.

    Args:
        folder: path; nothing is made before `create`.
        named: what errors call it: the option, or who asked for it.
    """

    def __init__(self, folder, named="--out"):
        self.folder = pathlib.Path(folder)
        self.named = named
        self._made = False  # by this object
        self.figures = self.folder / "figures"
        self.checkpoints = self.folder / "checkpoints"
        self.metrics = self.folder / "metrics.csv"
        self.model = self.folder / "model.keras"
        self.record_file = self.folder / "run.json"

    def exists(self):
        """Whether there is a run.json."""
        return os.path.isfile(self.record_file)

    def create(self):
        """Makes the folders.

        Raises:
            UserError: where that can't be done.
        """
        self._made = not self.folder.exists()
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise self.unwritable(error) from None

    def unwritable(self, error):
        """The `UserError` that an OSError in the folder becomes."""
        reason = getattr(error, "strerror", None) or error
        return UserError(
            f"{self.named}: expected a folder that can be written, got {self.folder} ({reason})"
        )

    def was_begun(self):
        """Whether there is a run, or what one leaves that was killed before its first step."""
        if self.exists():
            return True
        if not self.folder.is_dir() or self.checkpoint_files():
            return False
        names = {path.name for path in self.folder.iterdir() if ".tmp" not in path.name}
        return names <= {".lock", self.figures.name, self.checkpoints.name, self.metrics.name}

    @contextlib.contextmanager
    def held(self):
        """The folder, this process's alone, without what a killed one left beside its targets.

        The lock goes with the process, however it ends.

        Raises:
            UserError: where another process trains in it.
        """
        lock = self.lock()
        try:
            self.sweep()
            yield self
        finally:
            lock.release()

    def remove_if_empty(self):
        """Removes the folder, if this object made it and nothing was written."""
        written = (path for path in self.folder.rglob("[!.]*") if path.is_file())
        if self._made and not any(written):
            shutil.rmtree(self.folder, ignore_errors=True)

    def lock(self):
        """Takes the folder for this process; the result's `release` gives it back. Once more in the same process is no conflict.

        Raises:
            UserError: as `held`.
        """
        import filelock

        lock = filelock.FileLock(self.folder.resolve() / ".lock", blocking=False, is_singleton=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{self.named}: expected a folder that no other process trains in, got {self.folder}; wait for it, stop it, or name another folder"
            ) from None
        # filelock raises the second where a file system has no locks.
        except (OSError, NotImplementedError) as error:
            raise self.unwritable(error) from None
        return lock

    def sweep(self):
        """Removes what a killed process left beside its targets."""
        for folder in (self.folder, self.figures, self.checkpoints):
            for path in folder.glob(".*.tmp*"):
                if path.is_file():  # a folder may be an export's, which is still being filled
                    path.unlink()

    def read(self):
        """run.json.

        Raises:
            UserError: where it is unreadable, of another format, or lacks what every run has.
        """
        record = read_json(self.record_file)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise UserError(
                f"{self.record_file}: expected a run.json of format {FORMAT}, got another one"
            )
        for name, kind in _REQUIRED.items():
            if not isinstance(record.get(name), kind):
                raise UserError(
                    f"{self.record_file}: expected a field {name!r} ({_KINDS[kind]}), got {shown(record.get(name))}"
                )
        return record

    def write(self, record):
        """Replaces run.json."""
        with replacing(self.record_file) as path:
            path.write_text(
                json.dumps({"format": FORMAT, **record}, indent=2) + "\n", encoding="utf-8"
            )

    def update(self, **changes):
        """Changes fields of run.json."""
        self.write({**self.read(), **changes})

    def clear(self):
        """Removes what an earlier run left; its checkpoints first, so that none is ever taken for another run's."""
        self.drop_checkpoints()
        figures = [*self.figures.glob("*.png"), *self.figures.glob("*.gif")]
        for path in [self.metrics, self.model, *figures, self.record_file]:
            path.unlink(missing_ok=True)

    def drop_checkpoints(self):
        """Removes the checkpoints."""
        for path in self.checkpoint_files():
            path.unlink()

    def checkpoint_files(self):
        """Checkpoints, the newest last."""
        return sorted(self.checkpoints.glob("step-*.keras"))

    def checkpoint_at(self, step):
        """Path of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.keras"

    def save_checkpoint(self, model, step):
        """Writes the whole model, whole or not at all, and keeps the last two.

        In a thread of its own, where no strategy's scope holds: Keras makes an optimizer to look at whenever it saves, and those of
        workers would send its variables to each other, though each saves when its own time has come.
        """
        with replacing(self.checkpoint_at(step)) as path, ThreadPoolExecutor(1) as thread:
            thread.submit(model.save, path).result()
        for old in self.checkpoint_files()[:-2]:
            old.unlink()

    def read_metrics(self):
        """Rows of metrics.csv as dicts of numbers.

        Raises:
            UserError: where a row isn't one.
        """
        if not self.metrics.is_file():
            return []
        rows: list[dict] = []
        if self.metrics.stat().st_size > MAX_METRICS:
            raise UserError(f"{self.metrics}: expected at most {MAX_METRICS} bytes, got more")
        try:
            with self.metrics.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file, strict=True):
                    rows.append({name: _PARSE.get(name, float)(row[name]) for name in COLUMNS})
        except (KeyError, TypeError, ValueError, csv.Error):
            raise UserError(
                f"{self.metrics}: expected the columns {','.join(COLUMNS)} in line {len(rows) + 2}, got something else"
            ) from None
        return rows

    def cut_metrics(self, step):
        """Removes the rows after a step; makes the file where there is none."""
        rows = [row for row in self.read_metrics() if row["step"] <= step] if step else []
        with replacing(self.metrics) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(format_metrics(row) for row in rows)


def _count(text):
    """A number of metrics.csv that counts something."""
    value = int(text)
    if not 0 <= value <= MAX_COUNT:
        raise ValueError(value)
    return value


_PARSE = {"epoch": _count, "step": _count}


def finished(folder):
    """A finished run that trained a model, and its run.json.

    Raises:
        UserError: where `folder` isn't one.
    """
    run = Run(folder)
    if not run.exists():
        raise UserError(
            f"RUN: expected the folder of a run, got {folder!r}, which has no run.json; fit.py makes one"
        )
    record = run.read()
    if record["status"] != "finished":
        raise UserError(
            f"RUN: expected a finished run, got {folder!r}, which is {record['status']}"
        )
    if not run.model.is_file():
        raise UserError(f"RUN: expected a run that trained a model, got {folder!r} without one")
    return run, record


def open_model(path):
    """The `DiffusionModel` in a file; loads Keras.

    Raises:
        UserError: where the file is damaged, or holds code or another model.
    """
    import keras

    from keras_diffusion.training import DiffusionModel

    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None  # Keras takes weights whose checksum is wrong
        model = keras.models.load_model(path, safe_mode=True) if whole else None
    except Exception:  # of Keras, h5py, zipfile, zlib: damage shows in too many ways to list
        model = None
    if model is None:
        raise UserError(
            f"{path}: expected a model that can be read, got a damaged file, or one that holds code"
        )
    if not isinstance(model, DiffusionModel):
        raise UserError(f"{path}: expected a DiffusionModel, got a {type(model).__name__}")
    return model


def last_model(run, say, *, advice="--force starts over"):
    """The model of the newest checkpoint that can be read; None without checkpoints. Loads Keras.

    Args:
        run: `Run`.
        say: function of a line, called for each damaged one.
        advice: what to do where all are.

    Raises:
        UserError: where there are some, and all are damaged.
    """
    found = run.checkpoint_files()
    for path in reversed(found):
        try:
            return open_model(path)
        except UserError:
            before = "" if path == found[0] else "; trying the one before it"
            say(f"{path.name} is damaged{before}")
    if found:
        raise UserError(
            f"{run.checkpoints}: expected a readable checkpoint, got {len(found)} damaged; {advice}"
        )
    return None


def load_sampler(run):
    """The model of a finished run, if it draws from noise; loads Keras.

    Raises:
        UserError: as `open_model`, or where it is a one-step denoiser.
    """
    model = open_model(run.model)
    if model.schedule.num_train_steps == 1:
        raise UserError("RUN: expected a run of part 2.x, got a one-step denoiser's")
    return model


def learned_times(told):
    """The times of a student, as its run.json, or its file's `training`, says them; None of any other model."""
    student = told.get(DISTILLED)
    times = student.get("times") if isinstance(student, dict) else None
    good = isinstance(times, list) and all(isinstance(t, int | float) for t in times)
    return times if good else None


def class_names(record, num_classes):
    """What the classes of a run are called; none without classes.

    Raises:
        UserError: where run.json has other names than one for each class.
    """
    if not num_classes:
        return []
    names = record["data"].get("class_names", [str(k) for k in range(num_classes)])
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(names) < num_classes:
        raise UserError(
            f"run.json: expected {num_classes} texts as data.class_names, got {shown(names)}"
        )
    return names[:num_classes]


def format_metrics(row):
    """A row of metrics.csv as text."""
    return {
        "epoch": row["epoch"],
        "step": row["step"],
        "loss": f"{row['loss']:.9g}",
        "learning_rate": f"{row['learning_rate']:.9g}",
        "images_per_second": _rate(row["images_per_second"]),
    }


def _rate(value):
    """With one decimal; a step that took longer than its images in seconds isn't 0."""
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"
