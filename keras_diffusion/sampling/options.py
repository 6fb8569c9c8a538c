"""The command line of programs that draw: which options there are, and what they ask of `plan` and `sample`."""

import argparse
import re

import numpy as np

from keras_diffusion import cli, pictures
from keras_diffusion.errors import UserError
from keras_diffusion.sampling.samplers import SAMPLERS
from keras_diffusion.sampling.times import SPACINGS

# What an argument of `sample` is called on the command line, where that isn't its name.
_RENAMED = {"num_steps": "steps", "guidance_scale": "guidance"}
_NAMES = (
    *("sampler", "num_steps", "spacing", "strength", "eta", "variance", "guidance_scale", "keep"),
    *("sharpen", "redraw", "reader"),
    *("guidance_interval", "guidance_rescale", "seed", "to_seed", "start_from", "labels"),
    *("pool", "through"),  # of a student's training
)


def add_defaults(parser, *, own=False):
    """Adds the options that a model can have defaults for; one that isn't given is None.

    Args:
        parser: `argparse.ArgumentParser`.
        own: whether what isn't given is the model's own default.
    """

    add = _adder(parser, own)
    flow = "ddpm; euler for flows"
    add("--sampler", ", ".join(SAMPLERS), flow, choices=tuple(SAMPLERS), metavar="NAME")
    add_times(parser, "20", own=own)
    add("--eta", "of ddim: 0 adds no noise, 1 as much as ddpm", "0", type=cli.number(0, 1))
    variances = ("beta_tilde", "beta")
    add("--variance", "of ddpm: beta_tilde, beta", "beta_tilde", choices=variances, metavar="NAME")
    add("--sharpen", "pixels towards black and white, at the end", "0", type=cli.number(0, 1))
    add_guidance(parser, "5 with classes", own=own)


def add_times(parser, usual, *, own=False):
    """Adds the options of the times, `usual` steps unless told otherwise; the rest as `add_defaults`."""
    add = _adder(parser, own)
    add("--steps", "from T to 0", usual, type=cli.integer(1), metavar="S")
    spacings = f"{', '.join(SPACINGS)} or times like 300,120,40"
    add("--spacing", spacings, "uniform", type=_spacing, metavar="NAME")


def add_guidance(parser, usual, *, own=False):
    """Adds the options of guidance, of scale `usual` unless told otherwise; the rest as `add_defaults`."""
    add = _adder(parser, own)
    guided = "1 is off, 0 ignores the class, less goes away from it"
    add("--guidance", guided, usual, type=cli.number(), metavar="SCALE")
    add("--guidance-interval", "of t/T", "0,1", type=_interval, metavar="LOW,HIGH")


def add_redraw(parser):
    """Adds the options of redrawing."""
    parser.add_argument(
        "--reader",
        type=cli.name,
        metavar="FILE",
        help="a classifier of train_judge.py that says which images are drawn again (the model's)",
    )
    parser.add_argument(
        "--redraw",
        type=cli.number(0, 1),
        metavar="P",
        help="once more where it gives the class a smaller probability; 0 is off (the model's; with --reader 0.9)",
    )


def _adder(parser, own):
    def add(name, help, usual, **options):
        default = "the model's" if own else usual
        parser.add_argument(name, help=f"{help} ({default})", **options)

    return add


def add(parser, *, own=False):
    """Adds all the options, as `add_defaults` does."""
    add = parser.add_argument
    add("--labels", type=_integers, metavar="0,1,2", help="classes, a row each (all)")
    add("--per-label", type=cli.integer(1, 10**7), metavar="N", help="images of each class (10)")
    add_defaults(parser, own=own)
    add("--guidance-rescale", type=cli.number(0, 1), metavar="SHARE", help="of the spread (0)")
    add("--no-clip", action="store_const", const=False, dest="clip", help="estimates of x0")
    add_redraw(parser)
    add("--seed", type=cli.integer(0, 2**63 - 1), help="(0)")
    add("--to-seed", type=cli.integer(0, 2**63 - 1), help="go from --seed's image to this one's")
    add(
        "--start-from",
        type=cli.name,
        metavar="FILE",
        help="noise this image (.png, .npy) and draw it anew",
    )
    add("--strength", type=cli.number(0, 1), help="how far it is noised (1: nothing is left)")
    add(
        "--keep",
        type=cli.name,
        metavar="FILE",
        help="pixels that stay: white in a .png, bools in a .npy",
    )


def default_arguments(options):
    """The defaults of a model, of the options that were given."""
    given = ("sampler", "num_steps", "spacing", "eta", "variance", "sharpen")
    return _given(options, (*given, "guidance_scale", "guidance_interval"))


def option(name, others=None):
    """How an argument of `sample` is spelled on the command line; `others` as in `said_of_options`."""
    renamed = {**_RENAMED, **(others or {})}
    return "--" + renamed.get(name, name).replace("_", "-")


def arguments(options, image_shape):
    """What `sample` is asked, of the options that were given; labels aside. Reads the images that drawing starts from.

    Raises:
        UserError: where such a file isn't an image of this shape.
    """
    given = (
        *("sampler", "num_steps", "spacing", "strength", "eta", "variance", "sharpen", "clip"),
        *("guidance_scale", "guidance_interval", "guidance_rescale", "seed", "to_seed", "redraw"),
    )
    asked = _given(options, given)
    if options.start_from:
        asked["start_from"] = pictures.read(options.start_from, image_shape)
    if options.keep:
        asked["keep"] = pictures.read(options.keep, image_shape) > 0.5
    return asked


def labels(options, num_classes):
    """The label of each image, label-major: all of the first that was asked for, then the next.

    Raises:
        UserError: where a label is none of the network's.
    """
    each = options.per_label or 10
    if options.labels is not None and not num_classes:
        raise UserError("--labels: expected none for a network without classes; leave it out")
    chosen = list(range(num_classes)) or [0]
    chosen = chosen if options.labels is None else options.labels
    wrong = [label for label in chosen if not 0 <= label <= num_classes]
    if wrong:
        raise UserError(
            f"--labels: expected 0..{num_classes} ({num_classes}: no class), got {wrong[0]}"
        )
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--labels: expected each class once, got {','.join(map(str, chosen))}")
    return np.repeat(np.array(chosen), each)


def _given(options, names):
    values = {name: getattr(options, _RENAMED.get(name, name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def said_of_options(error, others=None):
    """What `plan` or `sample` said of its arguments, said of options.

    Args:
        error: whose message begins with an argument's name, as all of theirs do.
        others: dict from arguments to options of a program that calls them otherwise.
    """
    name = "|".join([*_NAMES, *(others or {})])
    wanted = rf"^({name})\b|(?<=expected )({name})(?= as well)|(?<= with )({name})\b"
    return re.sub(wanted, lambda match: option(match[0], others), str(error))


def told_of_times(options, learned):
    """A line where a student is asked to draw otherwise than it has learned to; None otherwise.

    Args:
        options: what was given.
        learned: times of the student's calls, falling from T; None: it is no student.
    """
    if learned is None:
        return None
    given = (options.sampler, options.steps, options.eta, options.strength, options.spacing)
    own = ("ddim", len(learned), 0, 1, learned)
    if all(asked is None or asked == its for asked, its in zip(given, own, strict=True)):
        return None
    times = ",".join(f"{t:g}" for t in learned)
    return f"the model has learned to draw by ddim at {times}: otherwise it may draw far worse"


def check_redraw(options):
    """Whether what is asked is a moving picture, of images that are all drawn once.

    Raises:
        UserError: where it is, and some are to be drawn again.
    """
    if options.redraw and options.out.lower().endswith(".gif"):
        raise UserError(f"--redraw: expected 0 with --out=.gif, got {options.redraw:g}")


def _numbers(text, kind, wanted):
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}") from None


def _integers(text):
    return _numbers(text, int, "integers with commas between them")


def _spacing(text):
    if text in SPACINGS:
        return text
    return _numbers(text, float, f"{', '.join(SPACINGS)} or times with commas between them")


def _interval(text):
    wanted = "two numbers in 0..1 with a comma between them"
    numbers = _numbers(text, float, wanted)
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return tuple(numbers)
