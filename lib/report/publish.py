"""Stitch executed notebooks into one HTML page that needs no network, no script and no other file; print it as PDF."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup

from lib.report import ReportError
from lib.report.exporter import HERE, Fragment
from lib.report.tables import number

LIMIT = 10_000_000  # bytes
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
STAMP = "Sizes were chosen to be quick: few images and short training, so figures are low and uncertain."


@dataclass
class Section:
    """One notebook on the page."""

    id: str
    title: str
    soup: BeautifulSoup
    cells: int
    seconds: str
    failed: list[str]

    @property
    def headings(self) -> list[tuple[str, str]]:
        return [(h["id"], h.get_text(" ", strip=True)) for h in self.soup.find_all("h3")]

    @property
    def body(self) -> Markup:
        return Markup(self.soup)


def publish(
    notebooks: Sequence[Path], out: Path, title: str, banner: Mapping[str, Any], provenance: Iterable[Mapping] = ()
) -> Path:
    """Write the page and return its path.

    `notebooks` are executed, in the order to show. `banner` says what ran: label -> value; its key `small` (True or
    the reason) stamps the page. `provenance` are the manifests of the artifacts that the run used.
    """
    sections = [read(Path(path)) for path in notebooks]
    number_figures(sections)
    link(sections)
    rows = [(str(name), _plain(value)) for name, value in banner.items() if name != "small"]
    small = banner.get("small")
    page = _template().render(
        title=title,
        banner=rows,
        stamp=STAMP if small is True else small or "",
        sections=sections,
        failed=[text for section in sections for text in section.failed],
        artifacts=artifacts(provenance),
        css=Markup((HERE / "template/page.css").read_text(encoding="utf-8")),
    )
    check(page)
    return _write(Path(out), page)


def read(path: Path) -> Section:
    """One executed notebook: its title, its cells as HTML, headings one level lower, ids that begin with its name."""
    if not path.is_file():
        raise ReportError(f"no executed notebook at {path}; `make report` runs the notebooks first")
    notebook = nbformat.read(path, as_version=4)
    markup, _ = Fragment().from_filename(str(path))
    soup = BeautifulSoup(markup, "html.parser")
    title = _take_title(soup, path.stem)
    for tag in soup.find_all(id=True):
        tag["id"] = f"{path.stem}-{tag['id']}"
    _name_headings(soup, path.stem)
    _keep_together(soup)
    failed = [
        f"{path.stem} stopped in cell {i}: {output.ename}"
        for i, cell in enumerate(notebook.cells, 1)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    seconds = notebook.metadata.get("papermill", {}).get("duration")
    return Section(
        path.stem,
        title,
        soup,
        len(notebook.cells),
        "not recorded" if seconds is None else f"{seconds:,.1f}",
        failed,
    )


def number_figures(sections: Iterable[Section]) -> None:
    """`Figure 3.` and `Table 2.` in the order of the page, before each caption."""
    count = {"Figure": 0, "Table": 0}
    for section in sections:
        for figure in section.soup.find_all("figure"):
            kind = "Table" if "table" in figure.get("class", []) else "Figure"
            count[kind] += 1
            figure["data-number"] = f"{kind} {count[kind]}"
            mark = section.soup.new_tag("b", attrs={"class": "number"})
            mark.string = f"{kind} {count[kind]}."
            figure.figcaption.insert(0, mark, " ")


def link(sections: Sequence[Section]) -> None:
    """Make every link lead to a place on the page or turn it into text; an empty link to a figure says its number."""
    places = {tag["id"]: tag for section in sections for tag in section.soup.find_all(id=True)}
    known = {*places, *(section.id for section in sections), "provenance"}
    for section in sections:
        for a in section.soup.find_all("a"):
            target = _target(a.get("href", ""), section.id, known)
            if target is None:
                _as_text(a)
                continue
            if target not in known:
                raise ReportError(
                    f"{section.id}.ipynb links to {a['href']!r}, which is nowhere on the page; "
                    f"headings, fig-<name> and table-<name> are, in another notebook as #<notebook>-fig-<name>"
                )
            a["href"] = f"#{target}"
            if not a.get_text(strip=True):
                a.string = places[target].get("data-number", target) if target in places else target


def artifacts(manifests: Iterable[Mapping]) -> list[dict[str, Any]]:
    """What the appendix says of each artifact, from its manifest; an artifact used twice is listed once."""
    found = {manifest["key"]: manifest for manifest in manifests}
    return [_artifact(manifest, found) for manifest in found.values()]


def check(page: str) -> None:
    """Refuse a page with a script, an outside address, a picture without alt text, or too many bytes."""
    soup = BeautifulSoup(page, "html.parser")
    for tag in soup.find_all(True):
        outside = [
            tag[name]
            for name in ("src", "href", "srcset", "action")
            if not tag.get(name, "#").startswith(("#", "data:"))
        ]
        if tag.name == "script" or outside or re.search(r"url\(|@import", tag.get("style", "")):
            raise ReportError(f"the page would load {outside or tag.name!r}; embed it or name it in plain text")
        if tag.name == "img" and not tag.get("alt", "").strip():
            raise ReportError(
                f"a picture in {tag.find_parent('section')['id']} has no alt text; write ![what is seen](file)"
            )
    if len(page.encode()) > LIMIT:
        sizes = sorted(((len(str(f)), f.get("id", "a picture")) for f in soup.find_all("figure")), reverse=True)[:5]
        biggest = ", ".join(f"{name} {size / 1e6:.1f} MB" for size, name in sizes)
        raise ReportError(
            f"the page has {len(page.encode()) / 1e6:.1f} MB, over {LIMIT / 1e6:.0f}; the biggest: {biggest}. "
            "Show fewer pictures there, or draw dense marks with rasterized=True"
        )


def browser() -> str:
    """The installed Chromium or Chrome; the environment variable CHROME wins."""
    wanted = os.environ.get("CHROME")
    found = next(filter(None, map(shutil.which, [wanted] if wanted else BROWSERS)), None)
    if found is None:
        raise ReportError(
            (f"CHROME={wanted} is not a program" if wanted else "no Chromium or Chrome is installed")
            + "; install one (`sudo apt install chromium`, `brew install --cask chromium`, or "
            "https://www.google.com/chrome) or set CHROME to its path"
        )
    return found


def pdf(report: Path, out: Path) -> Path:
    """Print the page with an installed Chromium."""
    program, report, out = browser(), Path(report).resolve(), Path(out).resolve()
    if not report.is_file():
        raise ReportError(f"no page at {report}; `make report` writes it")
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        options = ["--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={folder}/profile"]
        options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no sandbox
        run = subprocess.run(
            [program, *options, f"--print-to-pdf={folder}/page.pdf", report.as_uri()],
            capture_output=True,
            text=True,
            timeout=180,
        )
        made = Path(folder) / "page.pdf"
        if run.returncode or not made.is_file():
            raise ReportError(f"{program} did not print {report}: {run.stderr.strip()[-500:]}")
        made.replace(out)
    return out


def _take_title(soup: BeautifulSoup, stem: str) -> str:
    """The first # heading, taken out of the cells; the others go one level down."""
    first = soup.find("h1")
    title = first.get_text(" ", strip=True) if first else stem
    if first:
        first.extract()
    for heading in soup.find_all(re.compile("^h[1-5]$")):
        heading.name = f"h{int(heading.name[1]) + 1}"
    return title


def _name_headings(soup: BeautifulSoup, stem: str) -> None:
    taken = {tag["id"] for tag in soup.find_all(id=True)} | {f"{stem}-title"}
    for heading in soup.find_all(re.compile("^h[2-6]$")):
        base = f"{stem}-{_slug(heading.get_text())}"
        name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in taken)
        heading["id"] = name
        taken.add(name)


def _keep_together(soup: BeautifulSoup) -> None:
    """No line ends inside `80.9 % ± 3.8` or `(n = 3)`: spaces that do not break, in what the data say."""
    for text in soup.find_all(string=re.compile(r" [%±=] ?")):
        if text.find_parent(("figcaption", "td", "th", "p")) and not text.find_parent(("pre", "code")):
            spaces = re.compile(r"(?<=\d) (?=%)| ?± ?|(?<=\bn) = (?=\d)")
            text.replace_with(spaces.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def _target(href: str, stem: str, known: set[str]) -> str | None:
    """The id that a link means: in its own notebook first, then on the page; None for everything outside."""
    if found := re.fullmatch(r"(?:\./)?([\w-]+)\.ipynb(?:#.*)?", href):
        return found[1] if found[1] in known else None
    if not href.startswith("#"):
        return None
    names = (f"{stem}-{href[1:]}", f"{stem}-{_slug(href)}", href[1:])
    return next((name for name in names if name in known), href[1:])


def _as_text(a: Tag) -> None:
    """The words of a link, with its address behind them where they do not say it."""
    words, href = a.get_text(), a.get("href", "")
    a.replace_with(words if not href or href in words else f"{words} ({href})")


def _artifact(manifest: Mapping, others: Mapping) -> dict[str, Any]:
    made, unknown = manifest.get("made", {}), "not recorded"
    versions = {"Python": made.get("python", unknown), **made.get("versions", {})}
    facts = {
        "key": manifest["key"],
        "settings": manifest.get("settings", {}),
        "seed": manifest.get("seed", unknown),
        "code": manifest.get("code", unknown),
        "files": len(manifest.get("files", {})),
        "started": made.get("started", unknown),
        "made": history(made) or "in one go",
        "device": made.get("device", unknown),
        "versions": versions,
        "git": str(made.get("git", unknown))[:12] + (" with local changes" if made.get("dirty") else ""),
    }
    return {
        "kind": manifest["kind"],
        "key": manifest["key"],
        "history": history(made),
        "device": made.get("device", unknown),
        "seconds": _plain(made.get("seconds", unknown)),
        "memory": _plain(made.get("peak_memory_mb", unknown)),
        "facts": [(name, _plain(value)) for name, value in facts.items()],
        "inputs": [(name, key, key in others) for name, key in manifest.get("input_keys", {}).items()],
    }


def history(made: Mapping) -> str:
    """What was not made in one go: files of an earlier run, altered ones, those whose worker died; else nothing."""
    resumed, remade, retried = (made.get(name) or 0 for name in ("resumed_from", "remade", "retried"))
    said = [f"{resumed} {'file' if resumed == 1 else 'files'} kept from an earlier run"] if resumed else []
    said += [f"{', '.join(remade)} found altered and made again"] if remade else []
    again = retried if isinstance(retried, Mapping) else {}
    said += [f"{name} begun {n + 1} times, since a process died over it" for name, n in again.items()]
    return "; ".join(said)


def _plain(value: Any) -> str:
    """Any JSON value in words: `epochs 3, width 0.5`."""
    if isinstance(value, Mapping):
        return (
            ", ".join(
                f"{key} {_plain(item) if not isinstance(item, (Mapping, list)) else json.dumps(item)}"
                for key, item in value.items()
            )
            or "none"
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if value is None:
        return "none"
    return number(value) if isinstance(value, (bool, float)) else str(value)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(HERE / "template")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html.j2"
    )


def _write(path: Path, page: str) -> Path:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
