"""`examples/svm_by_c.py`: at C = 1 it is the table's class@100, of the same windows."""

from __future__ import annotations

import re

import commands
import numpy as np
import pytest
from paths import ROOT

from lacray import embedding
from lacray.apply import load
from lacray.data import open_videos


def test_at_c_1_it_is_the_metric_of_the_tables(features_checkpoint, features_root):
    said = commands.run("examples/svm_by_c.py", str(features_checkpoint), str(features_root), cwd=ROOT)
    model = load(features_checkpoint)
    data = model.config.data.model_copy(update={"validation_share": 0.0})
    videos = open_videos(data)
    config = model.config.model_copy(update={"data": data})
    expected = embedding.evaluate(config, model.trained.encoder, videos, "val").metrics["cropped.class_100"]
    found = {name: float(val) for name, val in re.findall(r"(.+): [\d.]+ % .* ([\d.]+) % of the val frames", said)}
    assert list(found) == [*(f"SVM, C = {c}" for c in (1, 10, 100, 1000)), "logistic regression"]
    assert found["SVM, C = 1"] == pytest.approx(100 * expected, abs=0.06)
    shares = [float(share) for share in re.search(r"variance by direction, %: (.*)", said)[1].split()]
    assert shares == sorted(shares, reverse=True)
    assert 50 < np.sum(shares) <= 100.1
