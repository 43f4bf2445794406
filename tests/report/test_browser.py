"""The page in a real browser. Without one this fails, and says what to install."""

import pytest

from lib.report import ReportError
from lib.report.page import browser, pdf
from tests.report.checks import check_in_browser, headless, look

FAULTS = [
    ("</style>", "main{width:2000px}</style>", "needs .* px"),
    ("</style>", ".key{color:#777!important}</style>", "contrast below"),
    ("<main", "<script>x</script><main", "errors"),
    ("data:image/svg+xml;base64,PHN2", "data:image/svg+xml;base64,AAAA", "pictures without"),
]


def test_page_in_chromium(page):
    check_in_browser(page)


def test_each_fault_is_seen(page, tmp_path):
    """The check is able to fail: a page with one fault planted does not pass."""
    text, broken = page.read_text(encoding="utf-8"), tmp_path / "broken.html"
    with headless() as chromium:
        for old, new, complaint in FAULTS:
            assert old in text
            broken.write_text(text.replace(old, new, 1), encoding="utf-8")
            with pytest.raises(AssertionError, match=complaint):
                look(chromium, broken, 380, "dark")


def test_pdf(page, tmp_path):
    made = pdf(page, tmp_path / "report.pdf")
    assert made.read_bytes().startswith(b"%PDF-") and made.stat().st_size > 20_000
    assert list(tmp_path.iterdir()) == [made]


def test_no_browser_says_what_to_install(monkeypatch, page, tmp_path):
    monkeypatch.setenv("CHROME", "/nowhere/chrome")
    with pytest.raises(ReportError, match="/nowhere/chrome is not a program; install one"):
        browser()
    with pytest.raises(ReportError, match="apt install chromium"):
        pdf(page, tmp_path / "report.pdf")
