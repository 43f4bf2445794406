"""Sentences, tables and the curve of the inversion chapter follow the data; each branch is reached by numbers that ask for it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from lib.core.store import ArtifactSpec
from lib.diffusion.embeddings import Learned
from lib.diffusion.inversion import Inverted
from lib.diffusion.model import SHIPPED
from lib.report import figures, inversion, published


def result(mean, half=0.01, n=60):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def inverted(curves, given_up=(), restarts=()):
    n = len(curves)
    lost, again = (torch.tensor([i in where for i in range(n)]) for where in (given_up, restarts))
    return Inverted(torch.zeros(n, 1, 1), torch.zeros(n), torch.tensor(curves), torch.zeros(n), again.long(), lost)


def test_curves_leave_out_what_was_given_up_and_hold_what_stopped():
    nan = float("nan")
    frame = inversion.curves(inverted([[1.0, 0.9, 0.8], [2.0, 1.0, nan], [nan, nan, nan]], given_up=[2]), [0, 5, 10])
    assert frame["mean"].tolist() == pytest.approx([100, 70, 65]) and set(frame["images"]) == {2}
    said = inversion.fell(frame)
    assert said.startswith("After 10 updates the loss is 35.0 % below") and "still falling" in said
    assert "come to rest" in inversion.fell(frame.assign(mean=[100, 65, 64.9]))
    assert "does not fall" in inversion.fell(frame.assign(mean=[100, 101, 102]))
    _, axes = figures.figure()
    inversion.falling(axes, frame)
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([100, 70, 65])


def test_failures_are_counted():
    learned = Learned(inverted([[1.0]] * 3, [2], [1, 2]), np.zeros(3, int), ("a", "b", "c"), ("x",))
    assert inversion.failures(learned, [True, False]) == (
        "2 of 3 embeddings had to start again at a lower rate; 1 were given up and keep what the model has for their "
        "class; 1 images of the set come from a source without a partner in its class, so from itself and noise alone.")
    fine = Learned(inverted([[1.0]]), np.zeros(1, int), ("a",), ("x",))
    assert inversion.failures(fine, [False]).startswith("None of 1 embeddings had to start again; none was given up; every")


@pytest.mark.parametrize(("mean", "half", "said"), [(0.99, 0.01, ": an embedding is that"), (0.96, 0.03, ": most embeddings"),
                                                    (0.5, 0.1, ": too few")])
def test_identified_says_what_the_interval_allows(mean, half, said):
    assert said in inversion.identified(result(mean, half))


def test_quality_in_words_and_rows():
    found = {"psnr": result(20, 1), "psnr of another": result(12, 1), "first": result(0.5), "tenth": result(0.8),
             "rank": {"median": 2.0, "of": 1000}, "seeds": result(20, 1), "set": result(30, 1), "class": result(60, 1)}
    assert "is closer to its source than" in inversion.rebuilt(found) and "median rank 2)" in inversion.rebuilt(found)
    assert "no closer" in inversion.rebuilt(found | {"psnr": result(12.5, 1)})
    assert "decides most" in inversion.varied(found) and "add to it" in inversion.varied(found)
    loose = inversion.varied(found | {"seeds": result(50, 1)})
    assert "the noise still decides much" in loose and "add to it" not in loose
    rows = inversion.quality(result(0.9), found)
    assert rows["value"][0]["mean"] == 90 and rows["value"][1] == found["psnr"] and rows["beside"][3] == "chance: 1"


def test_own_sources_are_counted():
    assert "50.0 % have one of their own two" in inversion.own(["a", "z"], ["b", "b"], ["a", "a"])


def test_cost_stands_beside_the_published_one():
    frame, said = inversion.cost(0.61, 0.1, published.load()["thin_air"], "cpu, 1 thread")
    assert frame["embedding"].tolist() == ["0.61", "18–84"] and frame["device"].tolist() == ["cpu, 1 thread", "A40"]
    assert said.startswith("An embedding costs 0.6 s of one core here; published are 18 to 84 s on an A40")


def test_speeds_name_what_saves_and_what_harms():
    rng = np.random.default_rng(0)
    rows = [{"setting": name, "loss": shift + rng.normal(0, 1e-3, 20), "updates": count, "base": 40.0}
            for name, shift, count in (("quick", 0.1, 8), ("same", 0.0, 40), ("better", -0.1, 40))]
    frame, said = inversion.speeds(pd.DataFrame(rows))
    assert "“quick” saves 80 % of the updates and ends at a higher loss; “same” saves 0 %" in said
    assert "not told apart; “better” saves 0 % of the updates and ends at a lower loss (n = 20 images)." in said
    assert frame["loss"][0]["mean"] == pytest.approx(100, abs=2) and frame["loss"][0]["n"] == 20


def near(distance, covered, half=0.02):
    return {"FD-judge": result(distance, half), "density": result(0.5), "coverage": result(covered, half)}


def test_the_cost_of_the_shipped_model_is_named_where_sets_begin_with_it():
    begun = ArtifactSpec("cd", inputs={"generator": ArtifactSpec("trained", {"start": "shipped"})})
    stages = json.loads((SHIPPED / "training.json").read_text())["stages"]
    minutes = f"{sum(one['seconds'] for one in stages) / 60:.0f} minutes"
    given = ArtifactSpec("given", {"classes": ["shipped"]})
    said = inversion.prior({"sd": ArtifactSpec("sd", {"model": "shipped"}), "cd": begun, "given": given})
    assert minutes in said and said.endswith("with which sd and cd begin.")
    assert inversion.prior({"cd": begun}).endswith("with which cd begins.") and inversion.prior({"given": given}) == ""
