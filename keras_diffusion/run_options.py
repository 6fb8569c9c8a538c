"""The command line of programs that train in a run folder: where, from the beginning or going on, saved how often."""

import contextlib
import shlex
import sys

from keras_diffusion import cli, runs, workers
from keras_diffusion.errors import UserError, is_integer

NAMES = (
    *("out", "resume", "force", "checkpoint_minutes", "checkpoint_steps", "recover", "devices"),
    "workers",
)


def add(parser, usual):
    """Adds the options.

    Args:
        parser: `argparse.ArgumentParser`.
        usual: what the help says of the folder.
    """
    parser.add_argument("--out", type=cli.name, help=f"folder of the run ({usual})")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--force", action="store_true", help="replace a run that is there")
    parser.add_argument(
        "--checkpoint-minutes",
        type=cli.number(0),
        metavar="M",
        help="most time between two checkpoints (5)",
    )
    parser.add_argument(
        "--checkpoint-steps", type=cli.integer(1), metavar="K", help="one every K steps too"
    )
    parser.add_argument(
        "--devices",
        type=_devices,
        default=1,
        metavar="N|all",
        help="GPUs (without one: logical CPUs) that share each batch (1)",
    )
    parser.add_argument(
        "--workers",
        action="store_true",
        help="share each batch with the other machines of TF_CONFIG, each of which runs this command",
    )
    parser.add_argument(
        "--recover",
        type=cli.integer(0, 100),
        default=0,
        metavar="N",
        help="at a loss that is no number, go back to the last checkpoint and halve the rate, N times at most (0)",
    )


def _devices(text):
    """An option's type: a number, or all."""
    return text if text == "all" else cli.integer(1, 64)(text)


def which_worker(options):
    """`workers.Workers` where several machines train, else None.

    Raises:
        UserError: where TF_CONFIG doesn't say which, or something is asked for that they can't.
    """
    if not options.workers:
        return None
    for name, usual in (("devices", 1), ("recover", 0)):
        if getattr(options, name) != usual:
            raise UserError(f"--{name}: expected none with --workers, got {getattr(options, name)}")
    return workers.of_environment()


def checkpoints(options):
    """Arguments of `callbacks.Checkpoints` that were given."""
    given = {"minutes": options.checkpoint_minutes, "steps": options.checkpoint_steps}
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def telling_how_to_go_on():
    """The command line that goes on with what this one began; a Ctrl-C inside says it too."""
    words = [word for word in sys.argv if word not in ("--force", "--resume")]
    command = shlex.join(["python", *words, "--resume"])
    try:
        yield command
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to go on: {command}") from None


def tells(watch):
    """Whether this process speaks for all workers: the chief, or the only one (`watch` is None)."""
    return watch is None or watch.workers.is_chief


def goes_on(options, run, watch):
    """Whether there is something to go on with, where that is asked; where there isn't, the chief says that the run starts over."""
    if options.resume and not run.exists() and tells(watch):
        print(f"{run.folder} was stopped before its first step: starting over")
    return options.resume and run.exists()


def tell_what_stays(options, run, watch):
    """Where a run is replaced, the chief says what was made of it, and stays."""
    made = [run.folder / name for name in runs.MADE if (run.folder / name).is_dir()]
    if options.force and run.exists() and made and tells(watch):
        print(
            f"of the run that --force replaces: {', '.join(map(str, made))}; convert.py and evaluate.py make them anew"
        )


def earlier(options, run):
    """run.json of the run that goes on; None where one begins.

    Args:
        options: the command line.
        run: `runs.Run`.

    Raises:
        UserError: where there is nothing to go on with, or something that would be replaced.
    """
    if options.resume and options.force:
        raise UserError("--resume and --force: expected one of them, got both")
    if options.resume and not run.was_begun():
        raise UserError(f"--resume: expected a run in {run.folder}, found none")
    if not run.exists() or options.force:
        return None
    try:
        record = run.read()
    except UserError as error:
        raise UserError(f"{error}; --force starts over") from None
    status = record["status"]
    if not options.resume:
        again = "--resume goes on, --force starts over"
        advice = "--force replaces it" if status == "finished" else again
        state = "not finished, or still going on" if status == "running" else status
        raise UserError(f"the run in {run.folder} is {state}; {advice}")
    longer = options.epochs is not None and _is_longer(options.epochs, record)
    if status == "finished" and not longer:
        if options.workers and (workers.begun_anew() or not workers.of_environment().is_chief):
            print(f"the run in {run.folder} is finished")
            raise SystemExit(0)  # nothing is left for this worker to do
        raise UserError(f"--resume: the run in {run.folder} is finished; --force trains it anew")
    return record


def _is_longer(epochs, record):
    """Whether that is more than a run was asked for; whether it may be is for its settings to say."""
    before = record["settings"].get("epochs")
    return is_integer(before) and epochs > before


def check_data(record, images):
    """Whether a run that goes on has the data that it began with.

    Args:
        record: as `earlier` gives it.
        images: `data.ImageData`.

    Raises:
        UserError: where it hasn't.
    """
    if record is None:
        return
    before, now = record["data"].get("sha256", ""), images.identity()["sha256"]
    if before != now:
        raise UserError(
            f"--resume: the data of this run was {before[:12]}..., now it is {now[:12]}..."
        )
