"""One run of a part of the course, from settings to a finished run folder."""

import os
import platform
from datetime import UTC, datetime

import keras
import numpy as np
import tensorflow as tf

from keras_diffusion import building, callbacks, illustrate, pipeline, runs, settings, versions
from keras_diffusion.errors import UserError
from keras_diffusion.files import replacing
from keras_diffusion.sessions import PartSession

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "mlxtend")


def fit(
    asked,
    data,
    run,
    *,
    command,
    resume=False,
    checkpoints=None,
    recover=0,
    say=print,
):
    """Trains a part, or goes on with it, and draws its figures.

    Args:
        asked: `settings.Settings`.
        data: `data.ImageData`.
        run: `runs.Run`, its folders made.
        command: the command line that continues, for run.json and for Ctrl-C.
        resume: whether to go on from the newest checkpoint, where there is one.
        checkpoints: dict of arguments of `callbacks.Checkpoints`.
        recover: as for `sessions.Session`.
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
    model = runs.last_model(run, say)
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
    record = _record(asked, data, command, from_step=start) | describe(model.network, model)
    begin(run, record, earlier, start)
    trained = PartSession(asked, data, run, model, every=checkpoints or {}, recover=recover)
    return finish(trained, command=command, say=say)


def begin(run, record, earlier, start):
    """Writes run.json before the first step of a session.

    Args:
        run: `runs.Run`.
        record: what it will say, of this session.
        earlier: what it said before; empty at the beginning.
        start: steps done before.
    """
    run.cut_metrics(start)
    sessions = [*earlier.get("sessions", []), *record["sessions"]]
    figures = earlier["figures"] if start else []
    before = {name: earlier[name] for name in ("recoveries",) if start and name in earlier}
    changed = {"sessions": sessions, "status": "running", "figures": figures}
    run.write({**record, **before, **changed})


def finish(session, *, command, say, result=lambda model: model):
    """Trains to the end, and leaves the model.

    Args:
        session: `sessions.Session`.
        command: what continues the run.
        say: function of a line.
        result: function of the trained model: the one that is saved.

    Returns:
        Whether the run is finished.

    Raises:
        NotFinite: where training broke down; run.json says so.
    """
    run = session.run
    try:
        done = session.train()
    except callbacks.NotFinite as fault:
        run.update(status="interrupted", steps=session.step, fault=str(fault))
        raise
    if not done:
        run.update(status="interrupted", steps=session.step)
        say(f"stopped at step {session.step}; to go on: {command}")
        return False
    with replacing(run.model) as path:
        result(session.model).save(path)
    run.update(**_outcome(run, session.step))
    return True


def _show(asked, data, run, *, command, say):
    """A part that trains nothing: its figures alone."""
    recipe, network = asked.course, None
    if "architecture" in recipe.final_figures:
        network = building.network(recipe, data, width=asked.width)
        network.summary(print_fn=lambda text, **_: say(text))
    scene = illustrate.Scene(None, network, data, recipe, run)
    drawn = illustrate.draw(scene, recipe.final_figures, say=say)
    described = describe(network) if network else {}
    run.write(
        {
            **_record(asked, data, command, from_step=0),
            **described,
            "status": "finished",
            "figures": drawn,
        }
    )
    return True


def _check_network(found, ours):
    """Whether a checkpoint's network is the one that this version builds: its figures name the layers."""
    theirs, own = ([(w.path, w.shape) for w in n.trainable_weights] for n in (found, ours))
    if theirs != own:
        raise UserError(
            f"--resume: expected a checkpoint of this version's {ours.name}, got one of an earlier version; --force starts over"
        )


def _record(asked, data, command, *, from_step):
    return {
        "title": asked.course.title,
        "parts": list(asked.course.parts),
        "settings": settings.to_json(asked),
        "data": {**data.identity(), "class_names": list(data.class_names)},
        "command": command,
        "sessions": [
            session_record(from_step)
        ],  # one each time that the run was started or went on
    }


def session_record(from_step):
    """What run.json says of one go at training."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "versions": versions.of(_PACKAGES),
        "machine": {
            "cpus": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
            "devices": tf.distribute.get_strategy().num_replicas_in_sync,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def describe(network, model=None):
    """What run.json says of a network, and of the model that trains it, with its optimizer where it is compiled."""
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
        }
    if getattr(model, "optimizer", None) is not None:
        described["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)
    return described


def _outcome(run, steps):
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
        "steps": steps,
        "epochs": epochs,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _number(value):
    """JSON knows neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None
