"""The examples of lib/README.md run as they stand, one after the other, on tiny folders."""

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.core.paths import ROOT
from lib.data.imageset import ImagesError
from tests.classifier.toys import blobs

TEXT = (ROOT / "lib/README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT.partition("## Five lines each")[2], re.S)
POINT = (90, 60)  # where the lines of the street meet


def street(path):
    """Dark lines that run to one point, on a light ground."""
    image = np.full((160, 240, 3), 230, np.uint8)
    for x in range(-200, 441, 40):
        start = np.array([x, 159]) * 0.6 + np.array(POINT) * 0.4
        cv2.line(image, tuple(start.astype(int).tolist()), (x, 159), (40, 40, 40), 2, cv2.LINE_AA)
    cv2.imwrite(str(path), image)


def test_every_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blobs(60, 32).to_folder(Path("photos"))
    blobs(60, 32, seed=1).to_folder(Path("generated"))
    street("street.png")
    train, cam, distance, lines, sampling, exchange = EXAMPLES
    names = {"Path": Path}
    for code in (train, cam, distance, lines, sampling):
        quick = code.replace("steps=200", "steps=30").replace(
            "inference_steps=8", "inference_steps=2"
        )
        exec(quick, names)
    assert names["accuracy"] > 0.9 and names["maps"].shape[0] == 8
    assert 0 <= names["distance"] < 100 and np.hypot(names["x"] - 90, names["y"] - 60) < 5
    assert len(names["pictures"]) == 10 and names["pictures"][0].shape == (64, 64, 3)
    if importlib.util.find_spec("datasets"):
        exec(exchange, names)
        np.testing.assert_array_equal(names["again"].images, names["images"].images)
    else:  # its error says what to install
        with pytest.raises(ImagesError, match="pip install datasets"):
            exec(exchange, names)
    np.testing.assert_array_equal(names["copy"].labels, names["images"].labels)
