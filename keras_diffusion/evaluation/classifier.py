"""A small classifier of images in Keras: the judge is one, and so is what is trained on generated images."""

import keras
import numpy as np

from keras_diffusion.errors import UserError
from keras_diffusion.nn import blocks
from keras_diffusion.sampling import onnx_classifier

BATCH_SIZE = 128
LEARNING_RATE = 2e-3
SHIFT = 0.08  # of the side: two pixels of 28
TURN = 0.03  # of a full turn: 11 degrees
LEFT_OUT = 0.2  # of what goes from block to block in training; of channels in a thinned network


def build(image_shape, num_classes, *, flip=False, width=32):
    """The network: three blocks of two convolutions, the mean over the image (its features), one linear layer.

    Args:
        image_shape: (H, W, C).
        num_classes: K.
        flip: whether training mirrors images, in place of turning them a little; not for digits.
        width: channels of the first block; the features are four times as many.

    Returns:
        `keras.Model` from float [N, H, W, C] in [0, 1] to a dict of `logits` [N, K] and `features` [N, 4*width].
    """
    x = inputs = keras.Input(image_shape, name="x")
    exact = {"dtype": "float32"}  # whatever the policy: places of pixels, the loss
    moved = {"fill_mode": "constant", **exact}
    if flip:
        x = keras.layers.RandomFlip("horizontal", seed=1, name="flip", **exact)(x)
    x = keras.layers.RandomTranslation(SHIFT, SHIFT, seed=2, name="shift", **moved)(x)
    if not flip:
        x = keras.layers.RandomRotation(TURN, seed=3, name="turn", **moved)(x)
    for k in range(3):
        if k:
            x = keras.layers.MaxPooling2D(name=f"pool{k}")(x)
            x = keras.layers.Dropout(LEFT_OUT, seed=10 + k, name=f"dropout{k}")(x)
        x = blocks.conv_block(x, width * 2**k, name=f"block{k}")
    features = keras.layers.GlobalAveragePooling2D(name="features", **exact)(x)
    x = keras.layers.Dropout(0.3, seed=20, name="dropout", **exact)(features)
    logits = keras.layers.Dense(num_classes, name="logits", **exact)(x)
    return keras.Model(inputs, {"logits": logits, "features": features}, name="classifier")


def train(
    images,
    labels,
    *,
    num_classes,
    epochs,
    flip=False,
    width=32,
    seed=0,
    precision="float32",
    verbose=0,
):
    """A trained classifier.

    Args:
        images: float32 [N, H, W, C] in [0, 1].
        labels: int [N].
        num_classes, flip, width: as in `build`.
        epochs: passes over the images; the rate falls from LEARNING_RATE to 0 as a cosine.
        seed: of the weights and of every draw.
        precision: Keras's policy while it trains.
        verbose: as in Keras.

    Returns:
        `keras.Model` as from `build`, in Keras's policy of now.
    """
    keras.utils.set_random_seed(seed)
    begun = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = build(images.shape[1:], num_classes, flip=flip, width=width)
        _fit(model, images, labels, epochs=epochs, verbose=verbose)
    finally:
        keras.config.set_dtype_policy(begun)
    made = build(images.shape[1:], num_classes, flip=flip, width=width)
    made.set_weights(model.get_weights())
    return made


def _fit(model, images, labels, *, epochs, verbose):
    trained = keras.Model(model.input, model.output["logits"])
    steps = epochs * -(-len(images) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    trained.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU XLA is the slower one
    )
    trained.fit(images, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=verbose)


def hits(model, images, labels):
    """Which images a classifier reads as their labels say: bool [N]."""
    logits = model.predict(images, batch_size=500, verbose=0)["logits"]
    return logits.argmax(axis=1) == labels


def load(path):
    """A classifier's file as the Keras model that it was made from, batch normalisation folded into the convolutions.

    Args:
        path: of what scripts/train_judge.py wrote.

    Returns:
        `keras.Model` as from `build`, in Keras's policy.

    Raises:
        UserError: where it is no such file.
    """
    says = onnx_classifier.Classifier(path).says
    try:
        return _rebuilt(says, *_weights(path))
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"{path}: expected a classifier of three blocks, as train_judge.py builds it, got another graph"
        ) from None


def _rebuilt(says, convolutions, linear):
    """The network that a file's recipe names, with these (kernel, bias)."""
    recipe = {name: says["recipe"][name] for name in ("flip", "width")}
    model = build(tuple(says["image_shape"]), len(says["class_names"]), **recipe)
    layers = {
        kind: [layer for layer in model.layers if isinstance(layer, kind)]
        for kind in (keras.layers.Conv2D, blocks.BatchNorm)
    }
    for (kernel, bias), conv, norm in zip(convolutions, *layers.values(), strict=True):
        conv.set_weights([kernel.transpose(2, 3, 1, 0)])
        norm.bias.assign(np.zeros_like(bias))
        norm.beta.assign(bias)
        norm.moving_variance.assign(np.full_like(bias, 1 - norm.epsilon))
    model.get_layer("logits").set_weights(linear)
    return model


def _weights(path):
    """The (kernel, bias) of each convolution of a file, and of its linear layer."""
    import onnx

    graph = onnx.load(path).graph
    known = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}

    def value(name):
        return known[stored.get(name, name)].astype(np.float32)

    found = [
        (value(node.input[1]), value(node.input[2]))
        for node in graph.node
        if node.op_type == "Conv"
    ]
    (product,) = (node for node in graph.node if node.op_type == "MatMul")
    (added,) = (node for node in graph.node if product.output[0] in node.input)
    (bias,) = (name for name in added.input if name != product.output[0])
    return found, (value(product.input[1]), value(bias))


def thinned(model, seed):
    """A classifier's network without a fifth of the channels that go from block to block, the others raised to make up for them.

    It sees otherwise than the whole: one more classifier, though a lesser one, without training.

    Args:
        model: as from `build`.
        seed: of the channels that are left out.

    Returns:
        `keras.Model`, likewise.

    Reference: Srivastava et al. 2014, "Dropout": what is trained is all thinned networks.
    """
    made = blocks.copied(model)
    rng = np.random.default_rng(seed)
    for k in (1, 2):
        convolution = next(
            one
            for one in made.layers
            if isinstance(one, keras.layers.Conv2D) and one.name.startswith(f"block{k}")
        )
        channels = convolution.kernel.shape[2]
        kept = rng.permutation(channels)[round(LEFT_OUT * channels) :]
        raised = np.zeros(channels, np.float32)
        raised[kept] = channels / len(kept)
        convolution.kernel.assign(convolution.kernel * raised[:, None])
    return made


def statistics(*models, last=()):
    """What an image looks like to classifiers: the features that a student can be matched by.

    Args:
        models: as from `build`, of the same images.
        last: further ones, of which the means of the last block alone are looked at.

    Returns:
        `keras.Model` from images to a list, for each of `models`: mean and standard deviation over the image of what each block
        puts out; then, for each of `last`: the means of its last; float32 whatever the policy. To be called with `training=False`.
    """
    inputs = keras.Input([*models, *last][0].input.shape[1:], name="x")
    found = []
    for k, model in enumerate(models):
        found += _statistics(model, f"statistics{k}")(inputs)
    for k, model in enumerate(last):
        found.append(_means(model, f"means{k}")(inputs))
    return keras.Model(inputs, found, name="statistics")


def weights(count, emphasis, *, last=0):
    """How much each of the `statistics` of so many classifiers counts: the means of a last block, which are what a judge compares,
    `emphasis`, the others 1."""
    emphasis = float(emphasis)
    return [1.0, 1.0, 1.0, 1.0, emphasis, 1.0] * count + [emphasis] * last


def _means(model, name):
    """A classifier's features, the means of its last block, as a model of their own."""
    return keras.Model(model.input, model.output["features"], name=name)


def _statistics(model, name):
    ops, found = keras.ops, []
    last = {layer.name.split("_")[0]: layer for layer in model.layers}
    for k in range(3):
        out = ops.cast(last[f"block{k}"].output, "float32")  # of its last layer
        found += [
            ops.mean(out, axis=(1, 2)),
            ops.sqrt(ops.var(out, axis=(1, 2)) + 1e-4),  # has a gradient where nothing varies
        ]
    return keras.Model(model.input, found, name=name)
