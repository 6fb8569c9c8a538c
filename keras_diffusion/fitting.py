"""One run of a part of the course, from settings to a finished run folder."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata

import keras
import numpy as np
import tensorflow as tf

import keras_diffusion
from keras_diffusion import building, callbacks, illustrate, pipeline, runs, settings
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sessions import Session

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "mlxtend")


def fit(
    asked,
    data,
    run,
    *,
    command,
    resume=False,
    checkpoints=None,
    say=print,
):
    """Trains a part, or goes on with it, and draws its figures.

    Args:
        asked: `settings.Settings`.
        data: `data.ImageData`.
        run: `runs.Run`, its folders made.
        command: the command line that continues, for run.json and for Ctrl-C.
        resume: whether to go on from the newest checkpoint, where there is one.
        checkpoints: dict of `minutes` and `steps` of `callbacks.Checkpoints`; None where nothing is said.
        say: function of a line.

    Returns:
        Whether the run is finished (False: stopped by Ctrl-C, and can go on).

    Raises:
        UserError: where the loss or a weight is no longer finite (the checkpoints before stay), or the newest checkpoint
            is of a network that this version doesn't build.
    """
    keras.utils.set_random_seed(asked.seed)
    keras.config.set_dtype_policy(asked.precision)
    recipe = asked.course
    if not recipe.epochs:
        return _show(asked, data, run, command=command, say=say)
    steps_per_epoch = pipeline.steps_per_epoch(len(data.x_train), asked.batch_size)
    earlier = run.read() if resume else {}
    if not resume:
        run.drop_checkpoints()
    model = _last_model(run, say)
    if model is None:
        model = building.model(
            asked.course,
            data,
            width=asked.width,
            ema_decay=asked.ema_decay,
            seed=asked.seed,
            steps_per_epoch=steps_per_epoch,
            epochs=asked.epochs,
            jit_compile={"auto": "auto", "on": True, "off": False}[asked.xla],
        )
    else:
        _check_network(model.network, building.network(asked.course, data, width=asked.width))
    start = int(model.step.numpy())
    run.cut_metrics(start)
    record = _record(asked, data, command, from_step=start) | _describe(model.network, model)
    record["sessions"] = [*earlier.get("sessions", []), *record["sessions"]]
    figures = earlier["figures"] if start else []
    run.write({**record, "status": "running", "figures": figures})
    every = {name: value for name, value in (checkpoints or {}).items() if value is not None}
    if not _trained(Session(asked, data, run, model, every=every), run):
        run.update(status="interrupted", steps=int(model.step.numpy()))
        say(f"stopped at step {int(model.step.numpy())}; to go on: {command}")
        return False
    with replacing(run.model) as path:
        model.save(path)
    run.update(**_outcome(run, model))
    return True


def _trained(session, run):
    """Whether a session got to the end; a run that broke down says so."""
    try:
        return session.train()
    except callbacks.NotFinite as fault:
        run.update(status="interrupted", steps=session.step, fault=str(fault))
        raise


def _show(asked, data, run, *, command, say):
    """A part that trains nothing: its figures alone."""
    recipe, network = asked.course, None
    if "architecture" in recipe.final_figures:
        network = building.network(recipe, data, width=asked.width)
        network.summary(print_fn=lambda text, **_: say(text))
    scene = illustrate.Scene(None, network, data, recipe, run)
    drawn = illustrate.draw(scene, recipe.final_figures, say=say)
    described = _describe(network) if network else {}
    run.write(
        {
            **_record(asked, data, command, from_step=0),
            **described,
            "status": "finished",
            "figures": drawn,
        }
    )
    return True


def _last_model(run, say):
    """The model of the newest checkpoint that can be read; None without checkpoints."""
    found = run.checkpoint_files()
    for path in reversed(found):
        try:
            return runs.open_model(path)
        except UserError:
            say(f"{path.name} is damaged; trying the one before it")
    if found:
        raise UserError(
            f"--resume: expected a readable checkpoint in {run.checkpoints}, got {len(found)} damaged; --force starts over"
        )
    return None


def _check_network(found, ours):
    """Whether a checkpoint's network is the one that this version builds: its figures name the layers."""
    theirs, own = ([(w.path, w.shape) for w in n.trainable_weights] for n in (found, ours))
    if theirs != own:
        raise UserError(
            f"--resume: expected a checkpoint of this version's {ours.name}, got one of an earlier version; --force starts over"
        )


def _record(asked, data, command, *, from_step):
    session = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "versions": _versions(),
        "machine": {
            "cpus": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
    return {
        "title": asked.course.title,
        "parts": list(asked.course.parts),
        "settings": settings.to_json(asked),
        "data": {**data.identity(), "class_names": list(data.class_names)},
        "command": command,
        "sessions": [session],  # one each time that the run was started or went on
    }


def _describe(network, model=None):
    described = {
        "network": network.name,
        "parameters": sum(int(np.prod(w.shape)) for w in network.trainable_weights),
    }
    if model is not None:
        described |= {
            "schedule": model.schedule.to_config(),
            "prediction": model.prediction,
            "ema_decay": model.ema_decay,
            "label_dropout": model.label_dropout,
            "min_snr": model.min_snr,
            "data_std": model.data_std,
            "stratified": model.stratified,
            "optimizer": keras.saving.serialize_keras_object(model.optimizer),
        }
    return described


def _outcome(run, model):
    """What the finished run came to: losses of each epoch and the time that its steps took."""
    rows, epochs = run.read_metrics(), []
    for epoch in sorted({row["epoch"] for row in rows}):
        losses = [row["loss"] for row in rows if row["epoch"] == epoch]
        epochs.append(
            {
                "epoch": epoch,
                "mean_loss": _number(np.mean(losses)),
                "mean_loss_of_last_100_steps": _number(np.mean(losses[-100:])),
                "median_images_per_second": float(
                    np.median([row["images_per_second"] for row in rows if row["epoch"] == epoch])
                ),
            }
        )
    return {
        "status": "finished",
        "steps": int(model.step.numpy()),
        "epochs": epochs,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _number(value):
    """JSON knows neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def _versions():
    versions = {"keras_diffusion": keras_diffusion.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
