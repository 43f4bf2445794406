"""Sentences follow the data: each branch is reached by numbers that ask for it."""


import numpy as np
import pytest

from lib.report import words


def result(mean, half=0.01, n=3):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


@pytest.mark.parametrize("near, copies, said", [
    (np.full(100, 9.0), 0, ["0.0 % [0.0, 3.7] of the synthetic", "no sign", "no synthetic image comes twice"]),
    (np.r_[np.full(90, 9.0), np.zeros(10)], 3, ["10.0 % [", "more than chance", "3 synthetic images equal"]),
    (np.r_[np.full(98, 9.0), np.zeros(2)], 0, ["2.0 % [", "no sign"]),  # 2 of 100 where 1 is usual
    (np.full(100, 6.0), 0, ["0.0 % [", "nearer than half of them: no image stands out, but the set as a whole lies nearer"])])
def test_memory(near, copies, said):
    sentence = words.memory(near, np.linspace(5, 10, 101), copies)
    assert all(part in sentence for part in said), sentence
