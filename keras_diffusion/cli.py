"""What the command lines share: one-line errors, exit statuses, types of options. Loads neither TensorFlow nor Keras."""

import argparse
import contextlib
import importlib.util
import io
import math
import os
import sys
import tempfile

from keras_diffusion import extras
from keras_diffusion.errors import UserError, line, shown
from keras_diffusion.files import beside

INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with status 2."""

    def __init__(self, **kwargs):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: {line(message)}\n")


def integer(low, high=None):
    """An option's type: an integer of at least `low`, at most `high`."""
    wanted = (
        f"expected an integer of at least {low}"
        if high is None
        else f"expected an integer in {low}..{high}"
    )

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{wanted}, got {text!r}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{wanted}, got {value}")
        return value

    return parse


def word_or_integer(word, low, high):
    """An option's type: a word, or an integer of at least `low`, at most `high`."""
    whole = integer(low, high)

    def parse(text):
        if text == word:
            return word
        try:
            return whole(text)
        except argparse.ArgumentTypeError:
            wanted = f"expected {word} or an integer in {low}..{high}, got {text!r}"
            raise argparse.ArgumentTypeError(wanted) from None

    return parse


def number(low=-math.inf, high=math.inf):
    """An option's type: a finite number of at least `low`, at most `high`."""
    wanted = "a number" if math.isinf(low) else f"a number in {low}..{high}"

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse


def name(text):
    """An option's type: a name of a file, a folder or data, which isn't empty."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got ''")
    return text


def names(text):
    """An option's type: names, a comma apart."""
    return tuple(name(part) for part in text.split(","))


def check_output(path, suffixes):
    """Whether a file can be written there: its folder is one, and its name ends as it should.

    Raises:
        UserError: where it can't.
    """
    folder, suffix = os.path.dirname(path) or ".", os.path.splitext(path)[1].lower()
    if suffix not in suffixes:
        raise UserError(f"--out: expected a name ending in {', '.join(suffixes)}, got {path!r}")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--out: expected a folder that can be written, got {folder!r}; make it")
    if os.path.isdir(path):
        raise UserError(f"--out: expected a file, got the folder {path!r}")
    try:
        os.lstat(beside(path))
    except FileNotFoundError:
        return
    except OSError as error:  # a name too long
        raise UserError(
            f"--out: expected a name that can be written, got {shown(path)} ({error.strerror})"
        ) from None


def program():
    """What the program that runs is called: its file, or the module after `python -m`."""
    main = sys.modules["__main__"].__spec__
    return main.name.removesuffix(".__main__") if main else os.path.basename(sys.argv[0])


def run(main):
    """Runs a program's `main`, which returns an exit status, and turns a user's error into one line and status 2."""
    name = program()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{name}: {line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or 'interrupted'}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a name too long
        reason = line(error.strerror or error)
        where = f": {line(error.filename)}" if error.filename else ""
        print(
            f"{name}: expected files to be read and written, got: {reason}{where}", file=sys.stderr
        )
        sys.exit(2)
    except MemoryError:
        print(
            f"{name}: expected enough memory, got too little; ask for less at once", file=sys.stderr
        )
        sys.exit(2)


def need(*packages, extra):
    """Checks that packages are installed.

    Raises:
        UserError: where one isn't.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(extras.missing(package, extra))


def load_tensorflow(*, devices=1, workers=False):
    """Imports TensorFlow and finds its devices, with the settings that it reads only then; what the user has set stays.

    oneDNN is off by default on processors without AVX-512 VNNI, though it is half as fast again there. The lines that
    TensorFlow's C++ writes to stderr before any setting can silence them are held back, unless loading fails.

    Args:
        devices: on a machine without a GPU, as many logical CPUs.
        workers: whether a strategy of several workers comes next, which must find the devices itself.
    """
    quiet = "3" if workers else "2"  # it writes several lines about a worker that is lost
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", quiet)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _stderr_held_back():
        import tensorflow as tf

        if devices not in (1, "all") and not tf.config.list_physical_devices("GPU"):
            cpu = tf.config.list_physical_devices("CPU")[0]
            one = tf.config.LogicalDeviceConfiguration()
            tf.config.set_logical_device_configuration(cpu, [one] * devices)
        if not workers:
            tf.config.list_logical_devices()


@contextlib.contextmanager
def _stderr_held_back():
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
