"""Published results: sourced, and accuracies set beside ours only on the same data."""

import pytest

from lib.report import ReportError, published
from lib.report.tables import NONE

OURS = {"real": {"mean": 0.952, "low": 0.948, "high": 0.956, "n": 5},
        "sd": {"mean": 0.52, "low": 0.51, "high": 0.53, "n": 5}}
DROPS = {"sd": {"mean": -0.432, "low": -0.44, "high": -0.42, "n": 5}}


def test_the_posters_table_is_carried_over():
    poster = published.load()["poster"]
    assert poster["accuracy"]["cifar10"] == {
        "real": 81.8, "di": 78.63, "sd": 52.57, "real+di": 86.14, "real+sd": 83.94}
    assert "not on real ones" in poster["protocol"]


def test_every_published_figure_is_a_percentage_of_something():
    values = [
        value
        for facts in published.load().values()
        for arms in facts.get("accuracy", {}).values()
        for value in arms.values()
    ]
    assert len(values) > 30 and all(1 < value < 100 for value in values)


def test_drops_are_compared_and_accuracies_where_the_data_are_the_same():
    rows = published.compare(OURS, DROPS, "cifar10").set_index(["source", "training_set"])
    poster = rows.loc[("poster", "sd")]
    assert poster["published_drop"] == pytest.approx(-29.23) and poster["our_drop"] == DROPS["sd"]
    assert poster["our_accuracy"] == OURS["sd"] and ("poster", "di") not in rows.index
    assert (
        rows.loc[("poster", "real"), "published_drop"]
        == NONE
        == rows.loc[("poster", "real"), "our_drop"]
    )


def test_other_data_only_share_the_drop():
    rows = published.compare(OURS, DROPS, "world")
    assert set(rows["data"]) == {"cifar10"} and set(rows["our_accuracy"]) == {NONE}
    assert [published.nearest(name) for name in ("world", "imagenette")] == [
        "cifar10",
        "imagenette",
    ]
    assert published.compare({"other": OURS["sd"]}, {}, "cifar10").empty


def test_each_source_says_its_protocol_once():
    rows = published.protocols(published.compare(OURS, DROPS, "cifar10"))
    assert rows["source"].is_unique and rows["protocol"].str.len().min() > 20


def test_a_source_must_say_its_protocol(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text("thing: {title: a, classifier: b, accuracy: {cifar10: {real: 90}}}")
    with pytest.raises(ReportError, match="does not say protocol"):
        published.load(path)


def test_every_synthetic_row_says_what_its_generator_had_seen():
    known = {"open", "closed", "open prior, closed targets", "open prior, closed fine-tuning"}
    for name, facts in published.load().items():
        arms = {arm for rows in facts.get("accuracy", {}).values() for arm in rows} - {"real"}
        assert arms <= set(facts.get("setting", {})), name
        assert set(facts.get("setting", {}).values()) <= known, name
    rows = published.compare(OURS, DROPS, "cifar10").set_index(["source", "training_set"])
    assert rows.loc[("poster", "sd"), "generator"] == "open"
