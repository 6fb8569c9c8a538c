"""Runs the README's first Python example, made small: 64 random images and narrow network in place of the real ones."""

import pathlib
import re
import sys

import numpy as np
import tensorflow as tf

code = re.search(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), re.DOTALL).group(1)
images = np.random.default_rng(0).random((64, 28, 28, 1), np.float32)
labels = np.arange(64) % 10
names = {
    "dataset_of_image_label_pairs": tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
}
exec(code.replace("width=64", "width=8").replace("epochs=20", "epochs=1"), names)
assert names["images"].shape == (3, 28, 28, 1) and names["images"].dtype == np.float32
assert 0 <= names["images"].min() <= names["images"].max() <= 1
print("README example: ok")
