"""What every page must pass, for the small page of these tests and for the report of a whole run
alike.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from bs4 import BeautifulSoup
from PIL import Image
from playwright.sync_api import sync_playwright

from lib.report.page import browser

VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}
WIDTHS = (380, 1440)

CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = node => { for (let n = node; n; n = n.parentElement) {
    const c = numbers(getComputedStyle(n).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  return [...document.body.querySelectorAll('*')]
    .filter(n => n.checkVisibility())
    .filter(n => [...n.childNodes].some(c => c.nodeType === 3 && c.textContent.trim()))
    .map(n => {
      const pair = [light(numbers(getComputedStyle(n).color)), light(paper(n))];
      const [a, b] = pair.sort((x, y) => y - x);
      const name = n.tagName + '.' + n.className + ': ' + n.textContent.slice(0, 40);
      return [(a + 0.05) / (b + 0.05), name]; })
    .filter(([ratio]) => ratio < 4.5);
}"""
STICKING_OUT = """() => {
  const scrolls = n => {
    for (let p = n.parentElement; p && p !== document.body; p = p.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true;
    return false; };
  const out = n => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 1;
  return [...document.body.querySelectorAll('*')].filter(n => out(n) && !scrolls(n))
    .map(n => n.tagName + '.' + n.className + ' to ' + n.getBoundingClientRect().right);
}"""
PICTURES = (
    "() => [...document.images].filter(i => !i.alt.trim() || !i.naturalWidth)"
    ".map(i => i.src.slice(0, 60))"
)
FOLDED = "() => document.querySelectorAll('details').forEach(d => { d.open = true; })"


class Balance(HTMLParser):
    """Collects tags that are closed without being open, or open at the end."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in VOID:
            self.wrong.append(
                f"</{tag}> at {self.getpos()} closes <{self.open[-1] if self.open else 'nothing'}>"
            )


def assert_report_is_sound(path: Path) -> None:
    """Parses, needs nothing from outside, describes its pictures, leads its links somewhere."""
    markup = Path(path).read_text(encoding="utf-8")
    soup = BeautifulSoup(markup, "html.parser")
    _assert_balanced(markup)
    _assert_alone(soup)
    _assert_described(soup)
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)), (
        f"ids used twice: {sorted({i for i in ids if ids.count(i) > 1})}"
    )
    links = [a["href"] for a in soup.find_all("a", href=True) if not a["href"].startswith("data:")]
    lost = [href for href in links if href[:1] != "#" or href[1:] not in ids]
    assert not lost, f"links that lead nowhere: {lost}"
    assert soup.html["lang"] and soup.find("meta", attrs={"name": "viewport"})
    assert soup.main and len(soup.find_all("h1")) == 1
    missing = re.search(r".{0,60}\bnan\b.{0,60}", soup.main.get_text(" "), re.IGNORECASE)
    assert not missing, f"a number is missing: {missing[0]!r}"
    assert len(markup.encode()) < 5_000_000
    over = over_budget(soup)
    assert not over, "\n".join(over)


def over_budget(soup: BeautifulSoup) -> list[str]:
    """What is too long for a reader of five minutes, in words."""
    main, appendix = reading(soup), reading(soup, folded=True)
    counts = {
        "words on the first screen": (len(words(main.find(id="first"))), 190),
        "words in the main part": (len(words(main)), 2300),
        "words in the appendices": (len(words(appendix)) - len(words(main)), 4000),
        "figures in the main part": (len(main.select("figure:not(.table)")), 10),
        "tables in the main part": (len(main.select("figure.table")), 4),
        "key results": (len(main.select(".key")), 8),
    }
    over = [
        f"{count} {what}, at most {limit}"
        for what, (count, limit) in counts.items()
        if count > limit
    ]
    for caption in appendix.select("figcaption"):
        headline = caption.find("b", class_=None)
        rest = caption.get_text(" ").replace(headline.get_text(" "), "", 1)
        if len(headline.get_text().split()) > 12 or len(words_in(rest)) > 34:
            over.append(f"long caption: {caption.get_text()}")
    sentences = [
        sentence
        for tag in main.select("p:not(.facts, .note, .counts), li")
        for sentence in sentences_of(tag)
    ]
    over += [f"long sentence: {text}" for text in sentences if len(words_in(text)) > 30]
    over += [f"more than 3 numbers: {text}" for text in sentences if len(numbers_in(text)) > 3]
    said = [text for text in sentences if len(words_in(text)) > 5]
    return over + [f"said twice: {text}" for text in sorted(set(said)) if said.count(text) > 1]


def reading(soup: BeautifulSoup, folded: bool = False) -> BeautifulSoup:
    """The main element without what is no reading; folds only where asked for."""
    main = BeautifulSoup(str(soup.main), "html.parser")
    hidden = "style, pre, nav, .tools, .anchor, details.toc, .ends" + (
        "" if folded else ", details"
    )
    for tag in main.select(hidden):
        tag.decompose()
    return main


def words(tag) -> list[str]:
    return words_in(tag.get_text(" "))


def words_in(text: str) -> list[str]:
    return [word for word in text.split() if re.search(r"[^\W\d]", word)]


def numbers_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])[+−]?\d[\d,.]*", text)


def sentences_of(tag) -> list[str]:
    """Without the names in italics, which may hold numbers of their own."""
    copy = BeautifulSoup(str(tag), "html.parser")
    for name in copy.find_all("em"):
        name.replace_with("name")
    text = re.sub(r"\s+", " ", copy.get_text()).strip()
    return [part for part in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text) if part]


def check_in_browser(path: Path) -> None:
    """Headless Chromium shows it at both widths in both themes: no error, no request, nothing cut,
    all legible.
    """
    with headless() as chromium:
        seen = {
            (width, scheme): look(chromium, path, width, scheme)
            for width in WIDTHS
            for scheme in ("light", "dark")
        }
    for width in WIDTHS:
        (light_page, light_figure), (dark_page, dark_figure) = (
            seen[width, "light"],
            seen[width, "dark"],
        )
        assert light_page > 200 and dark_page < 60, (
            f"paper is {light_page:.0f} in light, {dark_page:.0f} in dark"
        )
        assert light_figure > dark_figure + 60, (
            "the first figure does not follow the reader's theme"
        )


@contextlib.contextmanager
def headless():
    """The installed Chromium, without a window."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


def look(chromium, path: Path, width: int, scheme: str) -> tuple[float, float]:
    """Everything that must hold in one window; the brightness of page and first figure."""
    where = f"at {width} px, {scheme}"
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors, requests = [], []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: (
            requests.append(request.url) if not request.url.startswith(("file:", "data:")) else None
        ),
    )
    page.goto(Path(path).resolve().as_uri())
    for _ in ("as it opens", "unfolded"):
        width_needed = page.evaluate("document.scrollingElement.scrollWidth")
        assert width_needed <= width, f"{where}: the page needs {width_needed} px"
        assert not (out := page.evaluate(STICKING_OUT)), f"{where}: sticks out: {out}"
        assert not (pale := page.evaluate(CONTRAST)), f"{where}: contrast below 4.5: {pale}"
        assert not (dead := page.evaluate(PICTURES)), (
            f"{where}: pictures without alt text or content: {dead}"
        )
        page.evaluate(FOLDED)
    assert page.locator("nav.toc").is_visible() == (width > 1100), f"{where}: contents"
    brightness = (
        _brightness(page.screenshot(), corner=True),
        _brightness(page.locator('figure img[src^="data:image/svg"]').first.screenshot()),
    )
    page.close()
    assert not errors and not requests, f"{where}: errors {errors}, requests {requests}"
    return brightness


def _brightness(png: bytes, corner: bool = False) -> float:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)
    return float(np.median(pixels[:8, -8:] if corner else pixels))


def _assert_balanced(text: str) -> None:
    balance = Balance()
    balance.feed(text)
    assert text.startswith("<!DOCTYPE html>") and not balance.wrong and not balance.open, (
        f"{balance.wrong} {balance.open}"
    )


def _assert_alone(soup: BeautifulSoup) -> None:
    """No script and no address outside the page, in the pictures too."""
    assert not soup.find_all(["script", "iframe", "object", "embed"])
    for tag in soup.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on")], (
            f"script attribute: {tag.name}"
        )
        for name in ("src", "href", "srcset", "action", "poster"):
            assert tag.get(name, "#").startswith(("#", "data:")), (
                f"{tag.name} {name}={tag[name][:80]}"
            )
    drawings = [
        base64.b64decode(image["src"].split(",", 1)[1]).decode()
        for image in soup.find_all("img")
        if "svg+xml" in image["src"][:30]
    ]
    for code in (
        [tag.get_text() for tag in soup.find_all("style")]
        + [tag["style"] for tag in soup.find_all(style=True)]
        + drawings
    ):
        assert not re.search(r"url\(['\"]?(?!#)|@import|<script|href=\"http", code), (
            "a style or drawing loads something"
        )


def _assert_described(soup: BeautifulSoup) -> None:
    """Alt text on every picture; a number and a caption on every figure and table, counted in the
    order of the page.
    """
    assert all(image.get("alt", "").strip() for image in soup.find_all("img"))
    for kind in ("Figure", "Table"):
        captions = [
            figure.figcaption.get_text(" ", strip=True)
            for figure in soup.find_all("figure")
            if ("table" in figure["class"]) == (kind == "Table") and figure.find("b", "number")
        ]
        for i, caption in enumerate(captions, 1):
            assert re.match(rf"{kind} {i}\. \S+", caption), (
                f"{kind} {i} has the caption {caption!r}"
            )
