"""A small classifier of images in Keras: the judge is one, and so is what is trained on generated images."""

import keras

from keras_diffusion.nn import blocks

BATCH_SIZE = 128
LEARNING_RATE = 2e-3
SHIFT = 0.08  # of the side: two pixels of 28
TURN = 0.03  # of a full turn: 11 degrees


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
    if flip:
        x = keras.layers.RandomFlip("horizontal", seed=1, name="flip")(x)
    x = keras.layers.RandomTranslation(SHIFT, SHIFT, fill_mode="constant", seed=2, name="shift")(x)
    if not flip:
        x = keras.layers.RandomRotation(TURN, fill_mode="constant", seed=3, name="turn")(x)
    for k in range(3):
        if k:
            x = keras.layers.MaxPooling2D(name=f"pool{k}")(x)
            x = keras.layers.Dropout(0.2, seed=10 + k, name=f"dropout{k}")(x)
        x = blocks.conv_block(x, width * 2**k, name=f"block{k}")
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    x = keras.layers.Dropout(0.3, seed=20, name="dropout")(features)
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, {"logits": logits, "features": features}, name="classifier")


def train(images, labels, *, num_classes, epochs, flip=False, width=32, seed=0, verbose=0):
    """A trained classifier.

    Args:
        images: float32 [N, H, W, C] in [0, 1].
        labels: int [N].
        num_classes, flip, width: as in `build`.
        epochs: passes over the images; the rate falls from LEARNING_RATE to 0 as a cosine.
        seed: of the weights and of every draw.
        verbose: as in Keras.

    Returns:
        `keras.Model` as from `build`.
    """
    keras.utils.set_random_seed(seed)
    model = build(images.shape[1:], num_classes, flip=flip, width=width)
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
    return model


def hits(model, images, labels):
    """Which images a classifier reads as their labels say: bool [N]."""
    logits = model.predict(images, batch_size=500, verbose=0)["logits"]
    return logits.argmax(axis=1) == labels
