"""Fails unless a run folder is finished and every figure that it names is a picture."""

import json
import pathlib
import sys

from PIL import Image

folder = pathlib.Path(sys.argv[1])
record = json.loads((folder / "run.json").read_text())
assert record["status"] == "finished", record["status"]
assert record["figures"], "no figures"
for figure in record["figures"]:
    with Image.open(folder / figure["file"]) as image:
        image.load()
        assert len(set(image.convert("L").tobytes())) > 2, f"{figure['file']} is blank"
print(f"{folder.name}: {len(record['figures'])} figures, {record['data']['train_count']} images")
