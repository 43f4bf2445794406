"""The page: what is on it, in which order and length, and what is refused with the place to mend.
"""

from __future__ import annotations

import json
import re
import shutil

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output

from lib.report import ReportError
from lib.report import page as pages
from tests.report.checks import assert_report_is_sound, over_budget, reading
from tests.report.finished import EVIL, RESULTS, finish


def parsed(path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def soup(page):
    return parsed(page)


def text_of(tag) -> str:
    return re.sub(r"\s+", " ", tag.get_text(" ")).strip()


def test_page_is_sound_and_within_its_budget(page):
    assert_report_is_sound(page)


@pytest.mark.parametrize(("old", "new"), [
    ('href="#gap"', 'href="#nowhere"'), ('alt="Two bars', 'data-alt="Two bars'),
    ("</header>", ""), ("<h2", '<img alt="x" src="https://example.org/x.png"><h2'),
    ("<h2", "<script></script><h2"), ("<h1>", "<h1>nan points "),
    ("</style>", "p{background:url(https://example.org)}</style>"), ('id="gap"', 'id="setup"'),
    ('class="key">', 'class="key">' + "word " * 31), ('class="key">', 'class="key">1 2 3 4 '),
    ("<h1>", "<h1>" + "word " * 150), ('<ul class="limits">', '<ul class="limits"><li>'
     + "The same long sentence is here.</li><li>The same long sentence is here.</li>")])
def test_each_fault_is_seen(page, tmp_path, old, new):
    """The check is able to fail."""
    markup = page.read_text(encoding="utf-8")
    assert old in markup
    broken = tmp_path / "broken.html"
    broken.write_text(markup.replace(old, new), encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_report_is_sound(broken)


def test_first_screen(soup):
    first = soup.find(id="first")
    assert text_of(first.h1).endswith("?") and "6,000 training images" in text_of(first)
    assert len(first.select(".answer strong")) == 1
    assert [len(first.select(f"{kind} li")) for kind in (".takeaways", ".caveats")] == [3, 4]
    overview, key = first.find_all("figure")
    assert len(overview.select("thead th")) == 4 and len(overview.select("tbody tr")) == 4
    assert len(overview.select("tbody tr:first-child img")) == 8 and overview.select(".dots .ring")
    assert [text_of(th) for th in key.select("thead th")][0] == "Trained on"
    counts = text_of(first.select_one(".counts"))
    assert "4 lower" in counts and "0 higher" in counts


def test_main_part_in_order_and_the_rest_folded(soup):
    assert [text_of(h2).removesuffix(" #") for h2 in soup.find_all("h2")] == [
        "Set-up", "How large is the gap?", "What do the images look like?",
        "Where does the classifier fail?", "What helps?", "Published results and limits",
        "Appendices"]
    numbers = [text_of(b) for b in soup.select("figcaption > b.number")]
    for kind in ("Figure", "Table"):
        own = [number for number in numbers if number.startswith(kind)]
        assert own == [f"{kind} {i}." for i in range(1, len(own) + 1)]
    assert not reading(soup).find(id="04_training-fig-curves")
    assert soup.find(id="04_training").find(id="04_training-fig-curves")
    assert all(not details.has_attr("open") for details in soup.find_all("details"))


def test_what_is_empty_leaves_no_heading(soup):
    assert "Empty" not in soup.main.get_text() and "Nothing follows" not in soup.main.get_text()


def test_figures_can_be_linked_enlarged_and_saved(soup):
    figure = soup.find(id="04_training-fig-classes")
    button = figure.find("button")
    assert figure.find(id=button["popovertarget"]).has_attr("popover")
    assert figure.select_one(".number a")["href"] == "#04_training-fig-classes"
    csv = figure.find("a", download=True)
    assert csv["href"].startswith("data:text/csv") and "12345" in csv["href"]
    assert soup.select_one("h2 a.anchor")["href"] == "#setup"


def test_text_from_data_is_text(soup):
    assert not soup.find("script")
    for place in ("figcaption", "figure.table td, figure.table th", ".prose"):
        assert any(EVIL in tag.get_text() for tag in soup.select(place)), place
    appendix = text_of(soup.find(id="04_training"))
    assert "a paper (https://example.org/paper)" in appendix and "$L$" in appendix


def test_cite_references_and_licences(soup):
    assert "@software{" in soup.find(id="cite").pre.get_text()
    references = text_of(soup.find(id="references"))
    assert "Bird and Lotfi" in references and "HAM10000" not in references


def test_the_attribution_of_ham10000_comes_first(tmp_path, monkeypatch):
    data = RESULTS["01_data"] | {"source": "ham10000"}
    monkeypatch.setitem(RESULTS, "01_data", data)
    out = finish(tmp_path)
    first = parsed(pages.publish("smoke", tmp_path)).find(id="references").li
    assert text_of(first).startswith("HAM10000: Tschandl") and "CC BY-NC 4.0" in text_of(first)
    assert (out / "results/run.json").is_file()


def test_page_says_what_ran(tmp_path):
    finish(tmp_path, title="Can they replace them?", seeds=7, small="Few images.")
    soup = parsed(pages.publish("smoke", tmp_path))
    assert soup.h1.get_text() == "Can they replace them?" and "7 seeds" in text_of(soup.header)
    assert "Few images." in text_of(soup.select_one(".stamp"))


def test_chapters_of_two_runs_are_refused(tmp_path):
    out = finish(tmp_path)
    path = out / "results/04_training.json"
    content = json.loads(path.read_text())
    content["settings"]["seeds"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ReportError, match="different settings: seeds is .* in 04_training"):
        pages.publish("smoke", tmp_path)
    path.unlink()
    with pytest.raises(ReportError, match="no result of 04_training.*`make report`"):
        pages.publish("smoke", tmp_path)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (
            new_output("display_data", {"image/png": "iVBORw0KGgo="}),
            r"01_data.ipynb, cell 6 shows a bare picture",
        ),
        (new_output("error", ename="ValueError", evalue="no"), "cell 6 stopped: ValueError: no"),
    ],
)
def test_output_from_elsewhere_is_refused(study, tmp_path, output, complaint):
    out = shutil.copytree(study, tmp_path / "smoke")
    path = out / "notebooks/01_data.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_code_cell("plot()", outputs=[output]))
    nbformat.write(notebook, path)
    with pytest.raises(ReportError, match=complaint):
        pages.publish("smoke", tmp_path)


def test_a_page_too_large_names_the_figures_and_leaves_the_old_one(study, page, monkeypatch):
    before = page.read_bytes()
    monkeypatch.setattr(pages, "LIMIT", 50_000)
    with pytest.raises(ReportError, match=r"over 0; the biggest: 0\d_\w+-[\w-]+ 0.\d MB"):
        pages.publish("smoke", study.parent)
    assert page.read_bytes() == before and not list(study.glob(".*.tmp"))


def test_same_study_same_page(study, page):
    before = page.read_bytes()
    assert pages.publish("smoke", study.parent).read_bytes() == before


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(
        ReportError, match="no executed notebook at .*04_training.ipynb; `make report`"
    ):
        pages.Chapter.read(tmp_path / "04_training.ipynb")


def test_budget_of_the_fixture_page_is_not_empty(soup):
    assert len(reading(soup).get_text().split()) > 400 and over_budget(soup) == []
