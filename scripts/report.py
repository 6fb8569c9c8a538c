"""Makes the course's write-up, one page of HTML with every figure, out of the runs in a folder.

    python scripts/report.py --runs runs/ --out report/
    python scripts/report.py --quick

Reads run folders only (run.json, metrics.csv, figures/); what is missing is named with the command that makes it. --quick trains every
part in a small size first, in runs/quick; --full in the course's sizes. Both go on where they were stopped.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys

from keras_diffusion import cli
from keras_diffusion.errors import UserError
from keras_diffusion.files import check_replaceable
from keras_diffusion.report import plan
from keras_diffusion.report.found import find
from keras_diffusion.text import count

FIT = pathlib.Path(__file__).with_name("fit.py")


def parse(arguments):
    """The command line; None where an option wasn't given."""
    parser = cli.Parser(prog="report.py", description=__doc__)
    parser.add_argument("--runs", help="folder with runs in it (runs; with --quick runs/quick)")
    parser.add_argument(
        "--out", type=cli.name, default="report", help="folder of the page, replaced whole (report)"
    )
    parser.add_argument("--author", help="whose write-up it is")
    parser.add_argument(
        "--single-file", action="store_true", help="put the pictures into index.html"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="train every part small first")
    size.add_argument("--full", action="store_true", help="train every part as the course does")
    parser.add_argument(
        "--width", type=cli.integer(1, 1024), metavar="D", help="with --quick or --full"
    )
    parser.add_argument("--data", type=cli.name, help="with --quick or --full, as for fit.py")
    options = parser.parse_args(arguments)
    if options.runs == "":
        parser.error("--runs: expected a folder, got ''")
    if not (options.quick or options.full) and (options.width or options.data):
        parser.error("--width, --data: expected with --quick or --full, which train, got neither")
    return options


def train(options, folder):
    """Makes the runs that the course asks for and that aren't there yet.

    Raises:
        UserError: where a run failed.
        KeyboardInterrupt: where one was stopped.
    """
    values = dict(plan.QUICK) if options.quick else {}
    values |= {name: value for name in ("width", "data") if (value := getattr(options, name))}
    asked_for = [run for edition in plan.EDITIONS for run in plan.wanted(edition, **values)]
    found = find(folder)[0] if folder.is_dir() else []
    left = plan.outstanding(asked_for, found)
    for k, (want, resume) in enumerate(left, 1):
        command = want.asked.command(folder / want.name) + (" --resume" if resume else "")
        print(f"run {k} of {len(left)}: {command}", flush=True)
        status = run_fit(shlex.split(command)[2:])
        if status == cli.INTERRUPTED:
            raise KeyboardInterrupt(
                "stopped; report.py with the same options goes on with all of it"
            )
        if status:
            raise UserError(
                f"expected {want.name} to be trained, got status {status} from: {command}"
            )


def run_fit(arguments):
    """fit.py's exit status; Ctrl-C reaches it from the terminal, so that it saves before it ends."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.Popen([sys.executable, FIT, *arguments]).wait()
    finally:
        signal.signal(signal.SIGINT, before)


def main():
    options = parse(sys.argv[1:])
    cli.need("jinja2", "latex2mathml", "matplotlib", extra="train")
    from keras_diffusion.report import page

    check_replaceable(options.out, made=page.MADE, only=page.ONLY)  # before hours of training
    usual = "runs/quick" if options.quick else "runs"
    folder = pathlib.Path(usual if options.runs is None else options.runs)
    if options.quick or options.full:
        train(options, folder)
    found, unreadable = find(folder)
    missing = page.write(
        found,
        unreadable,
        out=options.out,
        runs_folder=folder,
        author=options.author,
        single_file=options.single_file,
    )
    for name, reason in unreadable:
        print(f"left out: {name}: {reason}")
    for entry in missing:
        print(f"missing: {entry.what}: {entry.command}")
    if missing and not (options.quick or options.full):
        print("all that is missing at once: the same with --full; in a small size with --quick")
    print(f"{count(len(found), 'run')}: {os.path.join(options.out, 'index.html')}")
    return 0


if __name__ == "__main__":
    cli.run(main)
