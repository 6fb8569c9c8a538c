"""Long runs: memory grows neither with steps nor with images."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import samples

ROOT = pathlib.Path(__file__).parents[1]
ROOM = 24 * 2**20  # bytes that an allocator may keep
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HEAD = """
import os, sys
import numpy as np

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""
TRAIN = f"""{HEAD}
import keras
import keras_diffusion as kd
from conftest import make_small

images, labels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8), np.arange(200) % 3
model = kd.DiffusionModel(make_small(), kd.linear_schedule(50))
model.compile(optimizer=keras.optimizers.Adam(1e-3))
batches = kd.training_batches(images, labels, batch_size=20, seed=0)
seen = []
note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(held()))
model.fit(batches, epochs=10, steps_per_epoch=200, verbose=0, callbacks=[note])
print(*seen)
"""
DRAW = f"""{HEAD}
from keras_diffusion.sampling import onnx_model

model = onnx_model.load("model.onnx", threads=1)
for count in (1_000, 10_000):
    with open("drawn.bin", "wb") as file:
        class Out:
            def __setitem__(self, chosen, images):
                file.write(np.ascontiguousarray(images).data)
        model.sample(np.arange(count) % 10, num_steps=5, out=lambda shape: Out())
    print(held(), os.path.getsize("drawn.bin"))
"""


def run(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [[int(number) for number in line.split()] for line in done.stdout.splitlines()]


def test_training_for_2000_steps_holds_no_more_than_for_400(tmp_path):
    (seen,) = run(TRAIN, tmp_path)
    assert len(seen) == 10 and max(seen) - seen[1] < ROOM, seen


def test_drawing_10000_images_holds_no_more_than_drawing_1000(tmp_path):
    """Written as they come: what comes out alone is ten times the room that is given."""
    shape = (32, 32, 3)
    (tmp_path / "model.onnx").write_bytes(
        samples.denoiser(samples.spec(image_shape=shape), shape=shape)
    )
    (few, small), (many, large) = run(DRAW, tmp_path)
    assert (small, large) == tuple(4 * n * int(np.prod(shape)) for n in (1_000, 10_000))
    assert many - few < ROOM < large / 4, (few, many)
