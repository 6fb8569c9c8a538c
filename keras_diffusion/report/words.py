"""Numbers of a run as people say them."""

from keras_diffusion.report.sections import EDITIONS
from keras_diffusion.text import count, duration


def label(run):
    """What tells a run apart at a glance."""
    asked = run.asked
    parts = [f"D = {asked.width}"]
    if asked.epochs:
        parts.append(count(asked.epochs, "epoch"))
    if not run.digits:
        parts.append(run.record["data"]["name"])
    return ", ".join([EDITIONS[asked.edition], *parts])


def loss(value):
    """A loss to three significant figures."""
    return "not finite" if value is None else f"{value:#.3g}"


def quoted(*losses):
    """Losses that others reached, one or from one to another, with three decimals or four."""
    texts = [f"{value:.4f}".removesuffix("0") for value in losses]
    return "–".join(dict.fromkeys(texts))


def images(run):
    """What a run was trained on."""
    data = run.record["data"]
    return f"{data['train_count']:,} images of {data['name']}"


def parameters(run):
    """How many numbers were trained."""
    return f"{run.record['parameters']:,}" if "parameters" in run.record else ""


def machine(run):
    """What a run was trained on: the machines of all its sessions."""
    machines = []
    for session in run.record.get("sessions", []):
        found = session.get("machine", {})
        if found.get("gpus"):
            machines.append(count(found["gpus"], "GPU"))
        elif found.get("cpus"):
            machines.append(count(found["cpus"], "CPU core"))
    return " and ".join(dict.fromkeys(machines)) or "a machine that the run doesn't name"


def settings(run):
    """How a run was trained, in a sentence."""
    asked, record = run.asked, run.record
    extras = [] if asked.precision == "float32" else [asked.precision]
    if asked.recipe == "best":
        weights = "min-SNR weights" if record.get("min_snr") else "preconditioned"
        extras.append(f"our own recipe (its network, v-prediction, cosine schedule, {weights})")
    if run.recipe.num_classes and "label_dropout" in record:
        extras.append(f"class hidden with probability {record['label_dropout']:g}")
    decay = record.get("ema_decay", asked.ema_decay)
    average = f"averaged weights (decay {decay:g})" if decay else "the weights as they are"
    return (
        f"D = {asked.width}, {count(asked.epochs, 'epoch')} of {images(run)} in batches of {asked.batch_size},"
        f" {_adam(run)}, {', '.join([*extras, f'seed {asked.seed}'])}; pictures are drawn with {average}."
    )


def _adam(run):
    recipe = run.recipe
    if recipe.cosine:
        return f"Adam at {recipe.learning_rate:g}, falling to 0 as a cosine"
    try:
        rate = run.record["optimizer"]["config"]["learning_rate"]
        rate = rate["config"]["initial_learning_rate"] if isinstance(rate, dict) else rate
        text = f"Adam at {rate:g}"
    except (KeyError, TypeError, ValueError, OverflowError):  # what an earlier version doesn't say
        text = f"Adam at {recipe.learning_rate:g}"
    return f"{text}, times 0.1^(1/{run.asked.epochs}) after each epoch" if recipe.decays else text


def outcome(run):
    """What a run came to: (what, value) pairs, beside the course staff's and students' losses where it can be compared."""
    if not run.trained:
        return [("steps", "none yet")]
    time = ("training time", f"{duration(run.seconds)} on {machine(run)}")
    if not run.finished:
        return [(f"loss so far, {progress(run)}", loss(run.final_loss)), time]
    recipe, found = run.recipe, [("final loss", loss(run.final_loss))]
    if recipe.staff_loss and run.digits:
        found.append((f"course staff, {recipe.epochs} epochs", quoted(recipe.staff_loss)))
    if recipe.student_losses and run.digits:
        found.append(("most students", quoted(*recipe.student_losses)))
    return [*found, time]


def progress(run):
    """How far an unfinished run came."""
    return f"{run.epochs_done} of {run.asked.epochs} epochs done"


def sampling(run):
    """How the samples of a run were drawn, in a sentence."""
    how = dict(run.recipe.sampling)
    variance = f" ({how['variance'].replace('_', '-')})" if "variance" in how else ""
    return (
        f"Drawn with {how['sampler']}{variance}, {how['num_steps']} steps, from the same noise at every epoch and in"
        " every run of this part."
    )
