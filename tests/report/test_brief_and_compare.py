"""The sheet and the comparison of two studies, from the same results as the page."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup

from lib.report import compare, page
from tests.report.checks import reading, words
from tests.report.finished import finish


@pytest.mark.parametrize("size", ["A4", "A3"])
def test_brief_is_one_page_of_350_words(study, tmp_path, size):
    sheet = page.write(
        tmp_path / "brief.html", page.brief_page(page.Study("smoke", study.parent), size)
    )
    soup = BeautifulSoup(sheet.read_text(encoding="utf-8"), "html.parser")
    assert len(words(reading(soup))) <= 350 and soup.select_one(".answer").get_text().endswith(".")
    printed = page.pdf(sheet, tmp_path / "brief.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) == 1


def test_comparison_says_what_differs(tmp_path):
    finish(tmp_path, "one")
    finish(tmp_path, "two", seeds=5)
    soup = BeautifulSoup(compare.compare("one", "two", tmp_path).read_text("utf-8"), "html.parser")
    results, settings = soup.find_all("table")
    assert [td.get_text() for td in settings.select("tbody tr > *")] == ["seeds", "3", "5"]
    verdicts = {row.th.get_text(): row.find_all("td")[-1].get_text()
                for row in results.select("tbody tr")}
    assert set(verdicts) == {"real", "sd", "cd", "di", "real+sd"}
    assert set(verdicts.values()) == {"inconclusive"}


@pytest.mark.parametrize(("means", "word"), [
    ((0.8, 0.5), "lower"), ((0.5, 0.8), "higher"), ((0.5, 0.51), "inconclusive")])
def test_two_runs_are_independent(means, word):
    first, second = ({"mean": m, "low": m - 0.03, "high": m + 0.03, "n": 3} for m in means)
    difference = compare.independent(second, first)
    assert difference["high"] - difference["mean"] == pytest.approx(0.03 * 2**0.5)
    assert compare.verdict(difference) == word


def test_nothing_differs_is_said():
    assert compare.as_table(compare.differing({"a": 1}, {"a": 1})) == ""
