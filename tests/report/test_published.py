"""Published figures: sourced, and set beside ours only where both looked at the same images."""

import pytest

from lib.report import ReportError, published

OURS = {"real": {"mean": 0.952, "low": 0.948, "high": 0.956, "n": 5}, "sd": {"mean": 0.52, "low": 0.51, "high": 0.53, "n": 5}}


def test_the_posters_table_is_carried_over():
    found = published.load()["poster"]
    assert found["accuracy"]["cifar10"] == {"real": 81.8, "di": 78.63, "sd": 52.57, "real+di": 86.14, "real+sd": 83.94}
    assert "not on real ones" in found["protocol"]


def test_every_published_figure_is_a_percentage_of_something():
    values = [value for facts in published.load().values() for arms in facts.get("accuracy", {}).values()
              for value in arms.values()]
    assert len(values) > 30 and all(1 < value < 100 for value in values)


def test_the_difference_is_ours_minus_theirs_with_our_interval():
    rows = published.beside(OURS, "cifar10").set_index(["source", "arm"])
    real = rows.loc[("poster", "real")]
    assert real["difference"] == pytest.approx({"mean": 13.4, "low": 13.0, "high": 13.8, "n": 5})
    assert real["verdict"] == "ours is higher" and rows.loc[("poster", "sd"), "verdict"] == "within our interval"
    assert rows.loc[("airbench", "real"), "verdict"] == "ours is lower"
    assert rows.loc[("poster", "di"), "ours"] == "not run: no such arm in this study"
    assert rows.loc[("poster", "sd"), "published gap"] == pytest.approx(-29.23)


def test_other_images_are_not_compared():
    rows = published.beside(OURS, "world", on="cifar10")
    assert set(rows["verdict"]) == {"another data set: cifar10, ours is world", "not run: no such arm in this study"}
    ours = rows[rows["arm"].isin(OURS)]
    assert set(ours["difference"]) == {"–"} and ours["ours"].iloc[0] == OURS["real"]
    assert published.beside(OURS, "world").empty
    assert [published.nearest(name) for name in ("world", "imagenette")] == ["cifar10", "imagenette"]


def test_each_source_says_its_protocol_once():
    rows = published.protocols(published.beside(OURS, "cifar10"))
    assert rows["source"].is_unique and rows["protocol"].str.len().min() > 20


def test_the_posters_paragraph_says_what_cannot_be_repeated():
    text = published.poster("ResNet-18, 5 seeds.")
    assert "splits a folder 70/15/15 without a seed" in text and text.endswith("ResNet-18, 5 seeds.")


def test_a_source_must_say_its_protocol(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text("thing: {title: a, classifier: b, accuracy: {cifar10: {real: 90}}}")
    with pytest.raises(ReportError, match="does not say protocol"):
        published.load(path)
