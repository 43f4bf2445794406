"""The stitched page: what is on it, in which order, and what is refused with the place that has to change."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_output

from lib.report import ReportError, exporter, publish
from tests.report import notebooks
from tests.report.checks import assert_report_is_sound

TITLE = "A study"


@pytest.fixture(scope="module")
def soup(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def written(folder, name, *cells, outputs=()):
    """A notebook without a kernel: cells as (kind, source), outputs of its last one."""
    notebook = notebooks.assemble(list(cells))
    if outputs:
        notebook.cells[-1].outputs = list(outputs)
    return notebooks.save(notebook, folder, name)


def shown(data):
    return new_output("display_data", data)


def text_of(tag):
    return re.sub(r"\s+", " ", tag.get_text(" ")).strip()


def test_page_is_sound(page):
    assert_report_is_sound(page)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<a href="#02_training">', '<a href="#nowhere">'),
        ('alt="Two rows', 'data-alt="Two rows'),
        ("</header>", ""),
        ("<h2", '<img alt="x" src="https://example.org/x.png"><h2'),
        ("<h2", "<script></script><h2"),
        ("points.</p>", "nan points.</p>"),
        ("</style>", "p{background:url(https://example.org)}</style>"),
        ("Figure 2.</b>", "Figure 7.</b>"),
        ('id="00_summary"', 'id="01_data"'),
    ],
)
def test_each_fault_is_seen(page, tmp_path, old, new):
    """The check is able to fail."""
    text = page.read_text(encoding="utf-8")
    assert old in text
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_report_is_sound(broken)


def test_summary_first_and_contents(soup):
    assert [s["id"] for s in soup.find_all("section")] == ["00_summary", "01_data", "02_training", "provenance"]
    assert [text_of(h) for h in soup.find_all("h2")] == ["Summary", "The data", "Training", "Provenance"]
    links = [a["href"] for a in soup.select("nav.toc a")]
    assert links == [
        "#00_summary",
        "#00_summary-limits",
        "#01_data",
        "#01_data-samples",
        "#01_data-notes",
        "#02_training",
        "#02_training-loss",
        "#provenance",
    ]
    assert [a["href"] for a in soup.select("details.toc a")] == links


def test_numbers_run_through_the_page(soup):
    assert [b.get_text() for b in soup.select("figcaption > b.number")] == [
        "Table 1.",
        "Figure 1.",
        "Figure 2.",
        "Table 2.",
        "Figure 3.",
    ]
    assert soup.find("a", href="#01_data-fig-samples").get_text() == "Figure 2"
    assert soup.find("a", href="#00_summary", string="the summary")


def test_no_line_ends_inside_a_number(tmp_path):
    cell = ("markdown", "# T\n\n80.9 % ± 3.8 (n = 3), `n = 3`, half of them")
    text = publish.read(written(tmp_path, "01_data", cell)).soup.get_text()
    assert "80.9\xa0%\xa0±\xa03.8 (n\xa0=\xa03), n = 3, half of them" in text


def test_text_from_data_is_text(soup):
    assert not soup.find("script")
    for place in (
        "figcaption",
        "figure.table td, figure.table th",
        ".finding",
        ".banner",
        "details.artifact",
        ".prose",
    ):
        assert any(notebooks.EVIL in tag.get_text() for tag in soup.select(place)), place
    assert notebooks.EVIL in soup.find(id="01_data").img["alt"]


def test_addresses_and_mathematics_stay_text(soup):
    assert "a paper (https://example.org/paper)" in text_of(soup.find(id="00_summary"))
    data = text_of(soup.find(id="01_data"))
    assert "$L = \\sum_i x_i^2$" in data and "https://example.org/a/very/long" in data


def test_parameters_are_a_folded_table(soup):
    details = soup.select_one("details.parameters")
    assert not details.has_attr("open") and text_of(details.summary) == "Parameters (3)"
    rows = [[text_of(cell) for cell in row.find_all(["th", "td"])] for row in details.tbody.find_all("tr")]
    assert rows == [
        ["epochs", "7", "passes over the data"],
        ["rate", "1.0e-3", "learning rate"],
        ["source", "world", "where images come from"],
    ]
    assert "epochs = 7" not in soup.get_text()


def test_code_output_and_warnings_are_folded(soup):
    data = soup.find(id="01_data")
    assert all(not details.has_attr("open") for details in soup.find_all("details"))
    summaries = [text_of(summary) for summary in data.select("details > summary")]
    assert (
        "Twenty pictures of two classes" in summaries
        and "Output (20 lines)" in summaries
        and "Warnings (1)" in summaries
    )
    assert [text_of(li) for li in data.select(".warnings li")] == ["UserWarning: few images"]
    assert not any("100%" in output.get_text() for output in data.select(".outputs"))


def test_banner_and_provenance(soup):
    banner = dict(
        zip(map(text_of, soup.select(".banner dt")), map(text_of, soup.select(".banner dd")), strict=True)
    )
    assert banner["seeds"] == "0, 1, 2" and banner["profile"] == "smoke" and "small" not in banner
    assert soup.select_one(".stamp").get_text().startswith("Small run.")
    facts = soup.find(id="artifact-ffffffffff0718293aaa")
    assert 'optimiser {"rate": 0.1, "steps": [1, 2]}' in text_of(facts) and facts.find(
        "a", href="#artifact-0a1b2c3d4e5f60718293"
    )
    assert "torch 2.11.0" in soup.find(id="artifact-0a1b2c3d4e5f60718293").get_text()
    assert "812" in text_of(soup.find("h3", id="provenance-artifacts").find_next("table"))


def test_what_was_retried_is_said(soup):
    made = {"resumed_from": 2, "remade": ["b.parquet"], "retried": {"c.parquet": 1}}
    assert publish.history(made) == ("2 files kept from an earlier run; b.parquet found altered and made again; "
                                     "c.parquet begun 2 times, since a process died over it")
    assert publish.history({"resumed_from": 0, "remade": [], "retried": {}}) == publish.history({"retried": 0}) == ""
    assert "Each was made in one go" in text_of(soup.find(id="provenance"))
    (artifact,) = publish.artifacts([{"key": "0" * 20, "kind": "lib.x", "made": made}])
    assert artifact["history"] == dict(artifact["facts"])["made"] == publish.history(made)


def test_a_large_run_has_no_stamp(tmp_path):
    paths = [written(tmp_path, "00_summary", ("markdown", "# Summary"))]
    page = publish.publish(paths, tmp_path / "report.html", TITLE, {"profile": "world", "small": False})
    assert "Small run." not in page.read_text(encoding="utf-8")
    assert_report_is_sound(page)


def test_a_failed_cell_is_shown_and_stamped(tmp_path):
    error = new_output("error", ename="ValueError", evalue=notebooks.EVIL, traceback=["\x1b[31mline\x1b[0m"])
    paths = [written(tmp_path, "00_summary", ("markdown", "# Summary"), ("code", "f()"), outputs=[error])]
    page = publish.publish(paths, tmp_path / "report.html", TITLE, {})
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert text_of(soup.select_one(".stamp.failed")) == "Incomplete. 00_summary stopped in cell 2: ValueError."
    assert notebooks.EVIL in soup.select_one(".error").get_text() and "\x1b" not in page.read_text(encoding="utf-8")
    assert_report_is_sound(page)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"},
            r"03_bad.ipynb, cell 2 \('plot\(\)'\) shows a bare picture without alt text; draw it with figures",
        ),
        ({"image/svg+xml": "<svg/>"}, "bare picture"),
        ({"text/html": '<img src="data:image/png;base64,AAAA">'}, "picture without alt text"),
        ({"text/html": "<table><tr><td>1</td></tr></table>"}, "bare table; use figures.table"),
        ({"text/html": "<script>alert(1)</script>"}, "HTML with <script>"),
        ({"text/html": '<b onclick="x()">x</b>'}, "script attribute 'onclick'"),
        ({"application/javascript": "alert(1)"}, "the page has no script"),
    ],
)
def test_output_from_elsewhere_is_refused(tmp_path, data, complaint):
    path = written(tmp_path, "03_bad", ("markdown", "# Bad"), ("code", "plot()"), outputs=[shown(data)])
    with pytest.raises(ReportError, match=complaint):
        publish.publish([path], tmp_path / "report.html", TITLE, {})


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("# A\n\n[there](#nowhere)", "03_bad.ipynb links to '#nowhere', which is nowhere on the page"),
        ("# A\n\n![seen](https://example.org/x.png)", "the page would load.*example.org"),
        ("# A\n\n![](data:image/gif;base64,R0lGODlhAQABAAAAACw=)", "a picture in 03_bad has no alt text"),
    ],
)
def test_prose_that_needs_the_network_is_refused(tmp_path, source, complaint):
    with pytest.raises(ReportError, match=complaint):
        publish.publish([written(tmp_path, "03_bad", ("markdown", source))], tmp_path / "report.html", TITLE, {})


def test_live_progress_leaves_nothing(tmp_path):
    widget = shown({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|  |"})
    path = written(
        tmp_path,
        "03",
        ("markdown", "# A"),
        ("code", "work()"),
        outputs=[widget, new_output("stream", name="stdout", text="1\r2\rend\n")],
    )
    page = publish.publish([path], tmp_path / "report.html", TITLE, {}).read_text(encoding="utf-8")
    assert "0%|" not in page and '<pre class="text" tabindex="0">end</pre>' in page


def test_headings_never_collide(tmp_path):
    paths = [
        written(tmp_path, name, ("markdown", "# Same\n\n## Loss\n\n## Loss\n\n[down](#loss)"))
        for name in ("01_a", "02_b")
    ]
    soup = BeautifulSoup(
        publish.publish(paths, tmp_path / "report.html", TITLE, {}).read_text(encoding="utf-8"), "html.parser"
    )
    assert [h["id"] for h in soup.find_all("h3")][:4] == ["01_a-loss", "01_a-loss-2", "02_b-loss", "02_b-loss-2"]
    assert [a["href"] for a in soup.find_all("a", string="down")] == ["#01_a-loss", "#02_b-loss"]


def test_a_page_too_large_names_the_figures_and_leaves_the_old_one(tmp_path, page, executed, monkeypatch):
    old = tmp_path / "report.html"
    old.write_text("the old page", encoding="utf-8")
    monkeypatch.setattr(publish, "LIMIT", 50_000)
    with pytest.raises(ReportError, match=r"over 0; the biggest: 0\d_\w+-fig-\w+ 0.\d MB"):
        publish.publish(executed, old, TITLE, {})
    assert old.read_text(encoding="utf-8") == "the old page" and [p.name for p in tmp_path.iterdir()] == [
        "report.html"
    ]


def test_same_notebooks_same_page(executed, page, tmp_path):
    again = publish.publish(
        executed,
        tmp_path / "report.html",
        "How far are diffusion-made training images from real ones?",
        notebooks.BANNER,
        notebooks.MANIFESTS,
    )
    assert again.read_bytes() == page.read_bytes()


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(ReportError, match="no executed notebook at .*04_training.ipynb; `make report`"):
        publish.publish([tmp_path / "04_training.ipynb"], tmp_path / "report.html", TITLE, {})


def test_code_that_shows_nothing_joins_the_next_cell(tmp_path):
    notebook = notebooks.assemble(
        [("markdown", "# A"), ("code", "x = 1"), ("parameters", "n = 2"), ("code", "print(x)"), ("code", "y = 2")]
    )
    notebook.cells[3].outputs = [new_output("stream", name="stdout", text="1")]
    path = notebooks.save(notebook, tmp_path, "03")
    soup = BeautifulSoup(
        publish.publish([path], tmp_path / "report.html", TITLE, {}).read_text(encoding="utf-8"), "html.parser"
    )
    assert [listing.get_text().split() for listing in soup.select(".listing")] == [
        "x = 1 print(x)".split(),
        ["y", "=", "2"],
    ]


def test_assignments_are_read_as_written():
    source = "a = 1.0e-3  # small # really\nb: str = 'x # y'\nc: int\nd = [1,\n     2]  # two\n"
    assert exporter.assignments(source) == {
        "a": ("1.0e-3", "small # really"),
        "b": ("x # y", ""),
        "d": ("[1,\n     2]", "two"),
    }


def test_notebooks_are_left_as_they_were(executed, page):
    """Publishing reads; the executed notebooks stay valid and keep their code."""
    for path in executed:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert "begin(" in json.dumps(notebook)
