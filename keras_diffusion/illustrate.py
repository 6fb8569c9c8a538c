"""The figures that the course's parts owe: what is computed for each, and under which name it is saved.

A figure is a function of a `Scene`; `course.RECIPES` names the functions.
"""

from dataclasses import dataclass

import numpy as np

from keras_diffusion import course, figures, noise, predictions
from keras_diffusion.data import ImageData
from keras_diffusion.runs import Run
from keras_diffusion.sampling.frames import Frames

_SEED = 0  # of every picture: the same noise at every epoch, so that pictures can be compared


@dataclass(frozen=True)
class Scene:
    """What figures are drawn from.

    Attributes:
        model: `DiffusionModel`, or None for a part without training.
        network: `keras.Model`, or None.
        data: images.
        recipe: `course.Recipe`.
        run: where to draw.
        epoch: epochs done.
    """

    model: object
    network: object
    data: ImageData
    recipe: course.Recipe
    run: Run
    epoch: int = 0

    def path(self, name):
        """Path of a figure."""
        return self.run.figures / name


def draw(scene, names, *, say=lambda line: None, before_each=lambda: None):
    """Draws figures by name.

    Args:
        scene: `Scene`.
        names: of FIGURES.
        say: function of a line.
        before_each: is called before each of them.

    Returns:
        A list of dicts for run.json: `file`, `part`, `epoch`, `caption`.
    """
    drawn = []
    for name in names:
        before_each()
        say(f"drawing {name.replace('_', ' ')} ...")
        drawn += FIGURES[name](scene)
    return drawn


def evaluations(recipe, epochs):
    """How often the network is called on an image for a run's figures, nearly all of it for samples."""
    if "samples" not in recipe.figures:
        return 0
    sampling = dict(recipe.sampling)
    steps = sampling.get("num_steps", recipe.schedule["num_train_steps"])
    branches = 2 if recipe.num_classes else 1
    drawings = len({epoch for epoch in recipe.figure_epochs if epoch < epochs} | {epochs})
    images = branches * (40 * drawings + 20) + (5 * 20 if "guidance" in recipe.final_figures else 0)
    return steps * images


def _entry(scene, file, part, caption):
    return {"file": f"figures/{file}", "part": part, "epoch": scene.epoch, "caption": caption}


def _unit(images):
    return images.astype(np.float32) / 255.0


def _eps(count, shape, *, draw=0):
    return noise.normal(
        noise.image_keys(_SEED, np.zeros(count, int), np.arange(count)), draw=draw, shape=shape
    )


def _test_digits(data):
    """The first test image of each class: float32 [K, H, W, C]."""
    labels = data.y_test
    firsts = [int(np.argmax(labels == k)) for k in range(data.num_classes) if k in labels]
    return _unit(data.x_test[firsts])


def architecture(scene):
    """1.1, 2.1, 2.4: the network's stages with their shapes, and its parameter count."""
    from keras_diffusion.nn.stages import stages  # loads Keras, which this module does without

    network, title = scene.network, scene.recipe.title
    count = sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    found = stages(network)
    width = next(shape[-1] for name, _, shape, _ in found if name == "enter")
    figures.architecture(
        scene.path("architecture.png"),
        found,
        title=f"{title}, D = {width}",
        footnote=f"{count:,} trainable parameters",
    )
    part = {"1": "1.1", "2": "2.4" if "label" in network.input else "2.1"}[scene.recipe.parts[0][0]]
    caption = f"The UNet, {count:,} trainable parameters"
    return [_entry(scene, "architecture.png", part, caption)]


def noising(scene):
    """1.2: z = x + sigma*eps for the seven sigmas."""
    x = _test_digits(scene.data)[:5]
    eps = _eps(len(x), x.shape[1:])
    grid = np.stack([x + sigma * eps for sigma in course.SIGMAS], axis=1)
    figures.image_grid(
        scene.path("noising.png"),
        grid,
        column_labels=[f"σ = {sigma:g}" for sigma in course.SIGMAS],
        title="z = x + σ ε",
    )
    return [_entry(scene, "noising.png", "1.2", "Test digits at seven noise levels")]


def denoised(scene):
    """1.2.1 and 1.2.3: clean, noisy and denoised test digits; for pure noise the mean training image beside them."""
    alpha, sigma = scene.model.schedule.alpha[1], scene.model.schedule.sigma[1]
    x = _test_digits(scene.data)
    z = (alpha * x + sigma * _eps(len(x), x.shape[1:])).astype(np.float32)
    rows, labels = [z, _denoise(scene.model, z)], ["noisy", "denoised"]
    if alpha > 0:
        rows, labels = [x, *rows], ["clean", *labels]
    else:
        mean = _unit(scene.data.x_train.mean(axis=0))
        rows, labels = [*rows, np.broadcast_to(mean, x.shape)], ["noise", "output", "mean image"]
    file = f"denoised_epoch_{scene.epoch:03d}.png"
    figures.image_grid(
        scene.path(file),
        np.stack(rows),
        row_labels=labels,
        title=f"{scene.recipe.title}, epoch {scene.epoch}",
    )
    caption = f"Test digits after epoch {scene.epoch}: {', '.join(labels)}"
    return [_entry(scene, file, scene.recipe.parts[0], caption)]


def out_of_distribution(scene):
    """1.2.2: one test digit, denoised at all seven sigmas by the network trained at one of them."""
    digits = _test_digits(scene.data)
    x = digits[min(7, len(digits) - 1)][None]
    eps = _eps(1, x.shape[1:])
    z = np.concatenate([x + sigma * eps for sigma in course.SIGMAS]).astype(np.float32)
    figures.image_grid(
        scene.path("out_of_distribution.png"),
        np.stack([z, _denoise(scene.model, z)]),
        row_labels=["noisy", "denoised"],
        column_labels=[f"σ = {sigma:g}" for sigma in course.SIGMAS],
        title=f"trained at σ = {scene.model.schedule.sigma[1]:g}, epoch {scene.epoch}",
    )
    caption = "The same digit denoised at seven noise levels"
    return [_entry(scene, "out_of_distribution.png", "1.2.2", caption)]


def _denoise(model, z):
    count = len(z)
    return model.denoise(z, np.ones(count, np.float32), np.zeros(count, np.int32)).numpy()


def one_step(scene):
    """2.2 and 2.5: training images, noised to ten times and denoised in one step."""
    model, count = scene.model, min(10, len(scene.data.x_train))
    steps = model.schedule.num_train_steps
    t = np.round(np.linspace(1, steps, count + 1)[1:])
    x, label = _unit(scene.data.x_train[:count]), scene.data.y_train[:count].astype(np.int32)
    alpha, sigma = (value[:, None, None, None] for value in model.schedule.at(t))
    xt = (alpha * x + sigma * _eps(count, x.shape[1:])).astype(np.float32)
    out = model.denoise(xt, (t / steps).astype(np.float32), label).numpy()
    p, q = predictions.to_x0(model.prediction, alpha, sigma)
    file = f"one_step_epoch_{scene.epoch:03d}.png"
    figures.image_grid(
        scene.path(file),
        np.stack([x, xt, p * xt + q * out]),
        row_labels=["clean", "noisy", "denoised"],
        column_labels=[f"t = {time:.0f}" for time in t],
        title=f"training images denoised in one step, epoch {scene.epoch}",
    )
    return [_entry(scene, file, scene.recipe.parts[0], "Training images denoised in one step")]


def _sample(scene, labels, **options):
    return scene.model.sample(
        labels=labels, seed=_SEED, **{**dict(scene.recipe.sampling), **options}
    )


def _sample_labels(scene, rows=4, columns=10):
    """Labels of a grid in column-major order: a class a column, or none."""
    classes = scene.model.num_classes
    return np.repeat(np.arange(columns) if classes else np.zeros(columns, int), rows)


def _grid(images, rows=4):
    """[N, ...] in column-major order -> [rows, columns, ...]."""
    return np.swapaxes(images.reshape(-1, rows, *images.shape[1:]), 0, 1)


def _class_names(scene):
    return list(scene.data.class_names) if scene.model.num_classes else None


def samples(scene):
    """2.3 and 2.6: images drawn from noise, four of each class."""
    images = _sample(scene, _sample_labels(scene))
    file = f"samples_epoch_{scene.epoch:03d}.png"
    guided = ", γ = 5" if scene.model.num_classes else ""
    figures.image_grid(
        scene.path(file),
        _grid(images),
        column_labels=_class_names(scene),
        title=f"samples, epoch {scene.epoch}{guided}",
    )
    caption = f"Samples after epoch {scene.epoch}{guided}"
    return [_entry(scene, file, scene.recipe.parts[-1], caption)]


def guidance(scene):
    """2.6: guidance scales 0, 5 and 10 from the same noise."""
    scales, each = (0.0, 5.0, 10.0), 2
    labels = _sample_labels(scene, rows=each)
    grid = [_grid(_sample(scene, labels, guidance_scale=scale), rows=each) for scale in scales]
    file = f"guidance_epoch_{scene.epoch:03d}.png"
    figures.image_grid(
        scene.path(file),
        np.concatenate(grid),
        row_labels=[text for scale in scales for text in [f"γ = {scale:g}"] + [""] * (each - 1)],
        column_labels=_class_names(scene),
        title=f"guidance scales, epoch {scene.epoch}",
    )
    caption = "Guidance scales 0 (no class), 5 and 10 from the same noise"
    return [_entry(scene, file, "2.6", caption)]


def animation(scene):
    """2.3 and 2.6: the estimate of x0 on the way from noise to image."""
    labels = _sample_labels(scene, rows=2)
    frames = Frames(labels.size)
    _sample(scene, labels, callback=frames)
    figures.animation(scene.path("sampling.gif"), [_grid(x, rows=2) for x in frames.all()])
    caption = "Estimates of the image while sampling"
    return [_entry(scene, "sampling.gif", scene.recipe.parts[-1], caption)]


def loss(scene):
    """Loss per step with the epochs' ends."""
    rows = scene.run.read_metrics()
    ends = [
        row["step"]
        for row, after in zip(rows, rows[1:], strict=False)
        if row["epoch"] != after["epoch"]
    ]
    staff = scene.recipe.staff_loss
    figures.loss_curve(
        scene.path("loss.png"),
        [row["step"] for row in rows],
        [row["loss"] for row in rows],
        epoch_ends=[*ends, rows[-1]["step"]],
        title=f"{scene.recipe.title}: training loss",
        reference=None if staff is None else (staff, "course staff, final"),
    )
    return [_entry(scene, "loss.png", scene.recipe.parts[0], "Training loss per step")]


_TRAINED = (denoised, out_of_distribution, one_step, samples, guidance, animation, loss)
FIGURES = {figure.__name__: figure for figure in (architecture, noising, *_TRAINED)}
