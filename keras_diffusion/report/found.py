"""What a folder of runs holds: each run as it says of itself, and the ones that can't be read."""

import pathlib
import re
import warnings
from dataclasses import dataclass, field

import numpy as np

from keras_diffusion import runs, settings
from keras_diffusion.errors import UserError, is_integer, is_number

MAX_PIXELS = 2**28  # of all the frames of a picture
_FILE = re.compile(r"figures/(?P<name>[a-z_]+?)(_epoch_\d+)?\.(png|gif)")


@dataclass(frozen=True)
class Picture:
    """A figure of a run.

    Attributes:
        name: as `illustrate` calls it, but "sampling" for the animation.
        part, epoch, caption: as in run.json.
        path: the file.
        size: (width, height) in pixels; None where the file is missing or damaged.
    """

    name: str
    part: str
    epoch: int
    caption: str
    path: pathlib.Path
    size: tuple | None


@dataclass(frozen=True, eq=False)
class FoundRun:
    """A run as its folder describes it.

    Attributes:
        folder: the folder; its name is what the page calls the run.
        asked: `settings.Settings`.
        record: run.json.
        pictures: its figures, those that are missing or damaged too.
        steps, losses, rates: [N] of metrics.csv: step, loss, images a second.
    """

    folder: pathlib.Path
    asked: settings.Settings
    record: dict
    pictures: tuple
    steps: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    rates: np.ndarray = field(repr=False)

    @property
    def name(self):
        """What the page calls it."""
        return self.folder.name

    @property
    def recipe(self):
        """Row of the course's table."""
        return self.asked.course

    @property
    def finished(self):
        """Whether it came to its end."""
        return self.record["status"] == "finished"

    @property
    def trained(self):
        """Whether there are losses to show."""
        return self.losses.size > 0

    @property
    def steps_per_epoch(self):
        """Steps in an epoch."""
        return -(-self.record["data"]["train_count"] // self.asked.batch_size)

    @property
    def epochs_done(self):
        """Epochs that came to their end."""
        return int(self.steps[-1]) // self.steps_per_epoch if self.trained else 0

    @property
    def final_loss(self):
        """Mean loss of the last 100 steps, of an epoch's steps where those are fewer; None where it isn't finite."""
        mean = np.mean(self.losses[-min(100, self.steps_per_epoch) :]) if self.trained else np.nan
        return float(mean) if np.isfinite(mean) else None

    @property
    def batches(self):
        """Images in the batch of each step [N]: an epoch's last batch is what is left."""
        place = (self.steps - 1) % self.steps_per_epoch  # of the step in its epoch
        rest = self.record["data"]["train_count"] - place * self.asked.batch_size
        return np.minimum(rest, self.asked.batch_size)

    @property
    def seconds(self):
        """Seconds that the training steps took, figures and checkpoints not counted."""
        timed = self.rates > 0  # earlier versions wrote 0 for a step slower than 20 s an image
        return float(np.sum(self.batches[timed] / self.rates[timed]))

    @property
    def digits(self):
        """Whether its classes are the course's, the digits."""
        names = self.record["data"].get("class_names")
        return names is None or [str(name) for name in names] == [str(k) for k in range(10)]

    @property
    def images_per_second(self):
        """Median over the steps."""
        return float(np.median(self.rates))

    @property
    def command(self):
        """The command that makes it."""
        return self.asked.command(self.folder)

    def find(self, name, epoch=None, *, part=None):
        """The picture of that name (at that epoch, in that part), or None; the newest where there are several."""
        fits = [
            picture
            for picture in self.pictures
            if picture.name == name and epoch in (None, picture.epoch)
            if part in (None, picture.part)
        ]
        return max(fits, key=lambda picture: picture.epoch, default=None)


def find(folder):
    """The runs in a folder: those directly in it that have a run.json.

    Returns:
        A list of `FoundRun` in the order of their names, and a list of (name, reason) of those that can't be read.

    Raises:
        UserError: where `folder` isn't one.
    """
    folder = pathlib.Path(folder)
    if runs.Run(folder).exists():
        raise UserError(
            f"--runs: expected a folder with runs in it, got the run {str(folder)!r}; give the folder above it"
        )
    if not folder.is_dir():
        raise UserError(
            f"--runs: expected a folder with runs in it, got {str(folder)!r}, which isn't one;"
            " scripts/fit.py makes runs, report.py --quick makes small ones of every part"
        )
    found, unreadable = [], []
    for path in sorted(folder.iterdir()):
        if not runs.Run(path).exists():
            if (path / "metrics.csv").is_file() or (path / "model.keras").is_file():
                unreadable.append((ascii(path.name)[1:-1], "run.json: expected one, found none"))
            continue
        try:
            path.name.encode()  # what isn't UTF-8 can't stand in a page
            found.append(read(path))
        except UserError as error:
            unreadable.append((path.name, str(error).replace(f"{path}/", "")))
        except UnicodeEncodeError:
            unreadable.append((ascii(path.name), "expected a name in UTF-8"))
        except OSError as error:
            unreadable.append((path.name, str(error.strerror)))
    return found, unreadable


def read(folder):
    """One run.

    Raises:
        UserError: where its run.json or metrics.csv can't be read.
    """
    run = runs.Run(folder)
    record = run.read()
    if runs.DISTILLED in record:
        raise UserError("a distilled run, which is no part of the course")
    asked = settings.from_json(record["settings"])
    _check(record)
    rows = run.read_metrics()
    if asked.epochs and record["status"] == "finished" and not rows:
        raise UserError("metrics.csv: expected the steps of a finished run, found none")
    columns = (np.array([row[c] for row in rows]) for c in ("step", "loss", "images_per_second"))
    steps, losses, rates = columns
    if not (np.all(np.diff(steps) > 0) and np.all(rates >= 0) and np.all(steps > 0)):
        raise UserError("metrics.csv: expected rising steps and rates of at least 0, got others")
    pictures = tuple(_picture(run.folder, entry) for entry in record["figures"])
    return FoundRun(run.folder, asked, record, pictures, steps, losses, rates)


def _check(record):
    """Whether the fields that the page shows are what they should be.

    Raises:
        UserError: where one isn't.
    """
    count = record["data"].get("train_count")
    wanted = {
        "data.train_count": _is_count(count) and count > 0,
        "data.name": isinstance(record["data"].get("name"), str),
        "parameters": _is_count(record.get("parameters", 0)),
        "sessions": isinstance(record.get("sessions", []), list)
        and all(map(_is_session, record.get("sessions", []))),
        "data.class_names": isinstance(record["data"].get("class_names", []), list),
        "ema_decay": record.get("ema_decay") is None or _is_share(record["ema_decay"]),
        "label_dropout": _is_share(record.get("label_dropout", 0)),
    }
    for name, good in wanted.items():
        if not good:
            raise UserError(f"run.json: expected a usable {name!r}, got something else")


def _is_session(session):
    machine = session.get("machine", {}) if isinstance(session, dict) else None
    return isinstance(machine, dict) and all(_is_count(machine.get(n, 0)) for n in ("cpus", "gpus"))


def _is_count(value):
    return is_integer(value) and 0 <= value <= runs.MAX_COUNT


def _is_share(value):
    return is_number(value) and 0 <= value <= 1


def _picture(folder, entry):
    """A figure of run.json.

    Raises:
        UserError: where the entry isn't one, or leads out of the run's figures.
    """
    wanted = {"file": str, "part": str, "epoch": int, "caption": str}
    good = isinstance(entry, dict) and all(
        isinstance(entry.get(name), kind) for name, kind in wanted.items()
    )
    match = _FILE.fullmatch(entry["file"]) if good else None
    if match is None:
        raise UserError("run.json: expected figures with file, part, epoch and caption")
    path = folder / entry["file"]
    return Picture(
        match["name"], entry["part"], entry["epoch"], entry["caption"], path, _size(path)
    )


def _size(path):
    """Width and height of a picture that can be read to its end, else None."""
    from PIL import Image, ImageSequence  # reading metrics needs no image library

    try:
        with warnings.catch_warnings(), Image.open(path, formats=("PNG", "GIF")) as image:
            warnings.simplefilter("error")  # Pillow's, of a picture much larger than its file
            for count, frame in enumerate(ImageSequence.Iterator(image), 1):
                if count * image.width * image.height > MAX_PIXELS:
                    return None
                frame.load()
            return image.size
    except Exception:  # damage shows in too many ways to list
        return None
