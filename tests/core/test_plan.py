"""The plan: its artifacts are the study's, amounts scale, unknown kinds are named and never an error."""

import json

import pytest

from lib import study as studies
from lib.core import config as settings
from lib.core import plan
from lib.core.store import Store


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    config = settings.load("digits", {"study": {"store": str(tmp_path_factory.mktemp("store"))}})
    return studies.plan(config, "digits")


def test_every_artifact_of_the_study_is_in_one_chapter(digits):
    listed = [spec.key for _, specs in plan.new_specs(digits) for spec in specs]
    everything = [spec for specs in digits.chapters.values() for spec in specs]
    assert len(listed) == len(set(listed)) and set(listed) == {s.key for s in studies.closure(everything)}


def test_kinds_that_no_run_has_made_are_named(digits):
    table = plan.rows(digits, {})
    assert all(row.missing.total() == row.artifacts for row in table)
    assert set().union(*(row.unknown for row in table)) == {s.kind for _, specs in plan.new_specs(digits) for s in specs}
    lines = plan._table(table, 2)
    assert "cannot be estimated: classifier" in lines and any(line.startswith("04_training") for line in lines)


def test_ten_times_the_images_are_ten_times_the_work(digits):
    spec = digits.synthetic["cd"]
    more = type(spec)(spec.kind, spec.settings | {"count": 10 * spec.settings["count"]}, spec.inputs, spec.seed)
    assert plan.work(more) == 10 * plan.work(spec) and plan.volume(more) == 10 * plan.volume(spec)


def test_seconds_of_earlier_runs_are_scaled(digits):
    spec = digits.real["test"]
    known = {spec.kind: plan.Rate(2.0 / plan.work(spec), 100 / plan.volume(spec), 2.0)}
    row = plan.rows(digits, known)[0]
    sizes = [s.settings["count"] / spec.settings["count"] for s in digits.real.values()]
    assert row.chapter == "01_data" and row.seconds == pytest.approx(2.0 * sum(sizes))
    assert row.bytes == pytest.approx(100 * sum(sizes)) and not row.unknown


def test_rates_come_from_manifests_and_damaged_ones_prove_nothing(digits, tmp_path):
    spec, store = digits.real["test"], Store(tmp_path)
    store.folder(spec).mkdir(parents=True)
    tree = spec.to_json() | {"made": {"seconds": 4.0}, "files": {"a": {"bytes": 50}}}
    (store.folder(spec) / "manifest.json").write_text(json.dumps(tree))
    other = store.root / "old-kind" / "0"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"kind": "old-kind"}')
    assert set(plan.rates([store])) == {spec.kind}
    assert plan.rates([store])[spec.kind].seconds == pytest.approx(4.0 / plan.work(spec))
