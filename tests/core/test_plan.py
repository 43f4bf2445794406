"""The plan: its artifacts are the study's, amounts scale, unknown kinds are named, no error."""

import json
import time

import pytest

from lib.core import config as settings
from lib.core import plan
from lib.core.plan import PlannedStudy, Rate, Rates
from lib.core.store import Store


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    config = settings.load("digits", {"study": {"store": str(tmp_path_factory.mktemp("store"))}})
    return PlannedStudy(config, "digits")


def test_every_artifact_of_the_study_is_in_one_chapter(digits):
    listed = [spec.key for _, specs in plan.new_specs(digits) for spec in specs]
    everything = [spec for specs in digits.chapters.values() for spec in specs]
    assert len(listed) == len(set(listed))
    assert set(listed) == {spec.key for spec in plan.closure(everything)}


def test_a_kind_of_ones_own_is_named_and_not_counted(digits):
    kept = plan.kept_rates()
    del kept["classifier"]  # as if this remedy or measure had been written today
    table = plan.rows(digits, Rates({}, kept))
    assert all(row.missing.total() == row.artifacts for row in table)
    assert "classifier" in plan.total(table).unknown and plan.total(table).seconds > 0


def test_the_kept_rates_know_most_kinds_of_the_project_and_take_seconds(digits):
    """What they lack `make plan` names; `python -m lib.core.plan --keep-rates .store` renews them.
    """
    began = time.process_time()
    kept = plan.kept_rates()
    assert time.process_time() - began < 5
    kinds = {spec.kind for _, specs in plan.new_specs(digits) for spec in specs}
    assert len(kinds - set(kept)) <= len(kinds) / 5, kinds - set(kept)
    assert all(rate.seconds > 0 and rate.factor >= 1.5 for rate in kept.values())


def test_ten_times_the_images_are_ten_times_the_work(digits):
    spec = digits.synthetic["cd"]
    settings = spec.settings | {"count": 10 * spec.settings["count"]}
    more = type(spec)(spec.kind, settings, spec.inputs, spec.seed)
    assert plan.work(more) == 10 * plan.work(spec)
    assert plan.volume(more) == 10 * plan.volume(spec)


def test_seconds_of_earlier_runs_are_scaled(digits):
    spec = digits.real["test"]
    rate = Rate(1.0, 2.0 / plan.work(spec), 100 / plan.volume(spec), 2.0, plan.work(spec))
    row = plan.rows(digits, Rates({spec.kind: rate}, {}))[0]
    sizes = sum(s.settings["count"] / spec.settings["count"] for s in digits.real.values())
    seconds = 2.0 * sizes + len(digits.real)
    assert row.chapter == "01_data" and row.seconds == pytest.approx(seconds)
    assert row.high == pytest.approx(2 * seconds)
    assert row.bytes == pytest.approx(100 * sizes) and "real-images" not in row.unknown


def test_much_larger_work_takes_the_kept_rate(digits):
    spec = digits.real["train"]
    here, kept = (Rate(0, 1, 1, 2, plan.work(spec) / n) for n in (11, 1))
    assert Rates({spec.kind: here}, {spec.kind: kept}).get(spec) == kept
    assert Rates({spec.kind: here}, {}).get(spec) == here
    assert Rates({spec.kind: kept}, {spec.kind: here}).get(spec) == kept


def test_rates_come_from_manifests_and_damaged_ones_prove_nothing(digits, tmp_path):
    spec, store = digits.real["test"], Store(tmp_path)
    store.folder(spec).mkdir(parents=True)
    tree = spec.to_json() | {
        "made": {"seconds": 4.0, "resumed_from": 0},
        "files": {"a": {"bytes": 50}},
    }
    (store.folder(spec) / "manifest.json").write_text(json.dumps(tree))
    other = store.root / "old-kind" / "0"
    other.mkdir(parents=True)
    (other / "manifest.json").write_text('{"kind": "old-kind"}')
    assert set(plan.rates(store)) == {spec.kind}
    assert plan.rates(store)[spec.kind].seconds == pytest.approx(4.0 / plan.work(spec))


def test_an_overhead_and_a_rate_are_fitted():
    rate = Rate.fit([(work, 0.5 + 0.1 * work, 1.0) for work in (1, 10, 100)])
    assert (rate.overhead, rate.seconds) == pytest.approx((0.5, 0.1)) and rate.factor == 1.5


def test_the_factor_says_how_far_single_artifacts_were():
    assert Rate.fit([(1, 1, 1), (1, 2, 1), (1, 4, 1)]).factor == pytest.approx(2, rel=0.15)
    assert Rate.fit([(1, 1, 1), (1, 2, 1)]).factor == 3.0
