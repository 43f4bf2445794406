"""The page: one HTML file from what the notebooks saved, without script, network or other files.

`template/page.html.j2` says what stands in the main part. What it does not take is folded into an
appendix, a chapter each. `python -m lib.report.page report|pdf|brief PROFILE`, `compare A B`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
import yaml
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from lib.core import freshness
from lib.core.config import SettingsError
from lib.core.paths import REPORTS, ROOT
from lib.core.store import ArtifactSpec, Store, StoreError, git, read_json, write_json
from lib.measure.stats import verdict
from lib.report import ReportError, figures, text
from lib.report.style import LABELS
from lib.report.tables import Column, heading, html_table

LIMIT = 5_000_000  # bytes
REFERENCES = Path(__file__).with_name("references.yaml")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
            "microsoft-edge", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            "/Applications/Chromium.app/Contents/MacOS/Chromium")
PICTURES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "application/pdf")


@dataclass
class Part:
    """A heading of a notebook, its prose, and the figures, tables and texts that follow it."""

    heading: str
    prose: Markup
    names: list[str] = field(default_factory=list)
    said: list[Markup] = field(default_factory=list)


@dataclass
class Chapter:
    """An executed notebook."""

    name: str
    title: str
    question: str
    parts: list[Part]
    code: str

    @classmethod
    def read(cls, path: Path) -> Chapter:
        if not path.is_file():
            raise ReportError(f"no executed notebook at {path}; `make report` runs it first")
        cells = nbformat.read(path, as_version=4).cells
        title = re.search(r"(?m)^# (.+)$", cells[0].source)
        question = re.search(r"\*\*(.+?)\*\*", cells[0].source, re.DOTALL)
        parts, code = [Part("", Markup())], []
        for number, cell in enumerate(cells[1:], 2):
            if cell.cell_type == "markdown":
                parts.append(_part(cell.source))
            elif cell.cell_type == "code":
                code.append(cell.source)
                for output in cell.outputs:
                    _collect(parts[-1], output, f"{path.name}, cell {number}")
        return cls(path.stem, title[1] if title else path.stem,
                   " ".join(question[1].split()) if question else "", parts, "\n\n".join(code))


class Study:
    """What one run left: chapters, results, and figures to be placed once each."""

    def __init__(self, profile: str, reports: Path = REPORTS):
        self.profile, self.out = profile, reports / profile
        self.names = freshness.names()
        self.numbers: dict[str, int] = {}
        self.placed: set[tuple[str, str]] = set()

    @cached_property
    def files(self) -> dict[str, dict]:
        """Results of every chapter; those of two different runs are refused."""
        files = {name: read_json(self.out / f"results/{name}.json") for name in self.names}
        for name, content in files.items():
            if content is None:
                raise ReportError(f"no result of {name}, or not a readable one; `make report` runs "
                                  f"it again.\n{self.out}/results/{name}.json")
        _refuse_two_runs(files)
        return files

    @cached_property
    def results(self) -> dict[str, dict]:
        return {name: content["results"] for name, content in self.files.items()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """As the chapters ran: not what `params/` says now."""
        return {name: value for content in self.files.values()
                for name, value in content["settings"].items() if name in STUDY}

    @cached_property
    def chapters(self) -> dict[str, Chapter]:
        return {name: Chapter.read(self.out / f"notebooks/{name}.ipynb") for name in self.names}

    @cached_property
    def manifests(self) -> list[dict]:
        """Of the artifacts that the results name."""
        specs = [ArtifactSpec.from_json(tree) for content in self.files.values()
                 for tree in content["specs"].values()]
        store = Store(self.settings["store"])
        return [artifact.manifest for spec in {spec.key: spec for spec in specs}.values()
                if (artifact := store.found(spec))]

    @property
    def seconds(self) -> float:
        done = {name: read_json(self.out / f"stamps/{name}.done.json") or self.files[name]
                for name in self.names}
        return round(sum(content["seconds"] for content in done.values()), 1)

    @property
    def facts(self) -> list[str]:
        """One line: data, classifier, seeds, minutes on what, revision."""
        data, training = self.results["01_data"], self.results["04_training"]
        commits = {manifest["made"].get("git", "unknown")[:8] for manifest in self.manifests}
        return [f"{data['source']}: {data['train']:,} training images, {data['resolution']} px",
                training["protocol"]["architecture"], f"{self.settings['seeds']} seeds",
                f"{text.seconds(self.seconds)} on {self.files['04_training']['device']}",
                "revision " + (", ".join(sorted(commits)) or "unknown")]

    def has(self, chapter: str, name: str) -> bool:
        return (self.out / f"figures/{chapter}_{name}.json").is_file() and any(
            name in part.names for part in self.chapters[chapter].parts)

    def figure(self, chapter: str, name: str) -> Markup:
        """A figure or table with its number; nothing where this run has none of that name."""
        if not self.has(chapter, name) or (chapter, name) in self.placed:
            return Markup()
        self.placed.add((chapter, name))
        record = self.record(chapter, name)
        kind = record["kind"].capitalize()
        self.numbers[kind] = self.numbers.get(kind, 0) + 1
        csv = (self.out / f"figures/{chapter}_{name}.csv").read_text(encoding="utf-8")
        return figures.markup(record, f"{chapter}-", f"{kind} {self.numbers[kind]}", csv)

    def record(self, chapter: str, name: str) -> dict:
        path = self.out / f"figures/{chapter}_{name}.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def text(self, chapter: str) -> dict[str, list[Markup]]:
        """Paragraphs by head as HTML, without the paragraph's own tags."""
        paragraphs = text.paragraphs(chapter, self.results[chapter])
        return {head: [Markup(text.to_html(item).removeprefix("<p>").removesuffix("</p>\n"))
                       for item in items] for head, items in paragraphs.items()}

    def rest(self, chapter: Chapter) -> list[tuple[Part, list[Markup]]]:
        """What the main part has not taken; headings with nothing below them are left out."""
        shown = [(part, list(filter(None, (self.figure(chapter.name, name)
                                           for name in part.names)))) for part in chapter.parts]
        return [(part, blocks) for part, blocks in shown if blocks or part.said]

    def verdicts(self) -> dict[str, int]:
        """How many training sets are lower, inconclusive, equivalent, higher than the baseline."""
        words = [verdict(gap) for gap in self.results["04_training"]["gaps"].values()]
        return {word: words.count(word)
                for word in ("lower", "inconclusive", "equivalent", "higher")}

    def provenance(self) -> tuple[Markup, str]:
        """Kinds of artifacts with count, time and device as a table; every artifact as CSV."""
        rows = pd.DataFrame([{
            "kind": manifest["kind"], "key": manifest["key"], "seed": manifest.get("seed"),
            "seconds": manifest["made"].get("seconds", 0.0), **{
                name: manifest["made"].get(name, "") for name in ("device", "started", "git")}}
            for manifest in self.manifests])
        if rows.empty:
            return Markup(), ""
        kinds = rows.groupby("kind", sort=False).agg(
            artifacts=("key", "size"), seconds=("seconds", "sum"), device=("device", "first"))
        columns = [Column.of(values, heading(name))
                   for name, values in kinds.round(1).reset_index().items()]
        return Markup(html_table(columns)), rows.to_csv(index=False)


STUDY = ("title", "small", "seed", "seeds", "device", "store")


def publish(profile: str, reports: Path = REPORTS) -> Path:
    """Write reports/<profile>/report.html and results/run.json."""
    study = Study(profile, reports)
    page = study_page(study)
    check(page)
    write_json(study.out / "results/run.json", {
        "profile": profile, "device": study.files["04_training"]["device"], "total": study.seconds,
        "seconds": {name: content["seconds"] for name, content in study.files.items()}, **git()})
    seen = read_json(study.out / "stamps/report.json")
    written = write(study.out / "report.html", page)
    if seen:
        write_json(study.out / "stamps/report.done.json", seen)
    return written


def study_page(study: Study) -> str:
    known = references()
    return figures.template("page.html.j2").render(
        study=study, css=css(), labels=LABELS, cite=citation(study), glossary=known["glossary"],
        references=known["references"], licences=licences(study, known["licences"]),
        code=lambda chapter: data_url("text/x-python", chapter.code),
        settings=data_url("text/yaml", yaml.safe_dump(
            {name: content["settings"] for name, content in study.files.items()})),
        data_url=data_url)


def references() -> dict[str, Any]:
    return yaml.safe_load(REFERENCES.read_text(encoding="utf-8"))


def css() -> Markup:
    return Markup((Path(__file__).parent / "template/page.css").read_text(encoding="utf-8"))


def data_url(kind: str, content: str) -> str:
    return f"data:{kind};charset=utf-8,{quote(content)}"


def citation(study: Study) -> dict[str, str]:
    """How to cite this report, from CITATION.cff."""
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(author.get("name") or f"{author['given-names']} {author['family-names']}"
                           for author in facts["authors"])
    revision = study.facts[-1]
    return {"text": f"{authors}: {facts['title']}. Profile {study.profile}, {revision}.",
            "bibtex": f"@software{{synthetic_training_data,\n  author = {{{authors}}},\n"
                      f"  title = {{{facts['title']}}},\n"
                      f"  note = {{Profile {study.profile}, {revision}}}\n}}"}


def licences(study: Study, known: Mapping[str, str]) -> list[str]:
    """Of the data in this file, HAM10000's attribution first."""
    used = " ".join([study.results["01_data"]["source"], study.profile])
    return [text for name, text in known.items() if name in used] or [known["other"]]


def check(page: str) -> None:
    """Refuse a script, an outside address, a lost link, a picture without alt text, a large page.
    """
    soup = BeautifulSoup(page, "html.parser")
    ids = {tag["id"] for tag in soup.find_all(id=True)}
    for tag in soup.find_all(True):
        targets = [tag[name] for name in ("src", "href", "srcset", "action") if tag.get(name)]
        outside = [target for target in targets if not target.startswith(("#", "data:"))]
        if tag.name in ("script", "iframe", "object", "embed") or outside:
            raise ReportError(f"the page would load {outside or tag.name!r}; embed it or name it "
                              "in plain text")
        lost = [target for target in targets if target[0] == "#" and target[1:] not in ids]
        if lost:
            raise ReportError(f"a link leads to {lost[0]!r}, which is nowhere on the page")
        if tag.name == "img" and not tag.get("alt", "").strip():
            raise ReportError("a picture has no alt text; write ![what is seen](file)")
    if len(page.encode()) > LIMIT:
        sizes = sorted(((len(str(tag)), tag["id"]) for tag in soup.find_all("figure")),
                       reverse=True)
        biggest = ", ".join(f"{name} {size / 1e6:.1f} MB" for size, name in sizes[:5])
        raise ReportError(f"the page has {len(page.encode()) / 1e6:.1f} MB, over "
                          f"{LIMIT / 1e6:.0f}; the biggest: {biggest}. Show fewer pictures there, "
                          "or draw dense marks with rasterized=True")


def brief(profile: str, reports: Path = REPORTS) -> list[Path]:
    """One sheet from the same results, for A4 and A3, as HTML and PDF."""
    written = []
    for size in ("A4", "A3"):
        study = Study(profile, reports)
        page = brief_page(study, size)
        check(page)
        sheet = write(study.out / f"brief-{size.lower()}.html", page)
        written += [sheet, pdf(sheet, sheet.with_suffix(".pdf"))]
    return written


def brief_page(study: Study, size: str) -> str:
    return figures.template("brief.html.j2").render(
        study=study, css=css(), size=size, licences=licences(study, references()["licences"]))


def browser() -> str:
    """The installed Chromium or Chrome; the environment variable CHROME wins."""
    chosen = os.environ.get("CHROME")
    program = next(filter(None, map(shutil.which, [chosen] if chosen else BROWSERS)), None)
    if program is None:
        problem = f"CHROME={chosen} is not a program" if chosen else "no Chromium is installed"
        raise ReportError(f"{problem}; install one (`sudo apt install chromium`, `brew install "
                          "--cask chromium`, or https://www.google.com/chrome) or set CHROME to "
                          "its path")
    return program


def pdf(report: Path, out: Path) -> Path:
    """Print a page with an installed Chromium."""
    program, report, out = browser(), Path(report).resolve(), Path(out).resolve()
    if not report.is_file():
        raise ReportError(f"no page at {report}; `make report` writes it")
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        sheet = Path(folder) / "page.pdf"
        options = ["--headless", "--disable-gpu", "--no-pdf-header-footer"]
        options += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={sheet}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # root has no sandbox
        run = subprocess.run([program, *options, report.as_uri()], capture_output=True, text=True,
                             timeout=180)
        if run.returncode or not sheet.is_file():
            raise ReportError(f"{program} did not print {report}: {run.stderr.strip()[-500:]}")
        sheet.replace(out)
    return out


def write(path: Path, page: str) -> Path:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class Renderer(IPythonRenderer):
    """Raw HTML is text, links to chapters lead to their appendix, other addresses are spelled out.
    """

    def inline_html(self, html: str) -> str:
        return escape(html)

    def block_html(self, html: str) -> str:
        return f"<p>{escape(html.strip())}</p>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        chapter = re.fullmatch(r"(?:\./)?([\w-]+)\.ipynb", url)
        if chapter or url.startswith("#"):
            return f'<a href="#{escape(chapter[1] if chapter else url[1:])}">{text}</a>'
        return text if url in text else f"{text} ({escape(url)})"


def prose(markdown: str) -> Markup:
    renderer = Renderer(allow_harmful_protocols=False, exclude_anchor_links=True)
    return Markup(MarkdownWithMath(renderer=renderer).render(markdown))


def _part(source: str) -> Part:
    heading = re.match(r"#+ (.+)", source)
    body = source[heading.end():] if heading else source
    return Part(heading[1].strip() if heading else "", prose(_first_sentence(body)))


def _first_sentence(markdown: str) -> str:
    """The page says what a section shows; how it is measured stands in the notebook."""
    paragraph = markdown.strip().partition("\n\n")[0]
    return re.split(r"(?<=[a-z)\]`*][.?])\s+(?=[A-Z*`])", paragraph, maxsplit=1)[0]


def _collect(part: Part, output: Mapping, where: str) -> None:
    """Take over what `lib.report` showed; refuse bare pictures; prints stay in the notebook."""
    if output.output_type == "error":
        raise ReportError(f"{where} stopped: {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        return
    report = output.metadata.get("report")
    if report is None and any(kind in output.data for kind in PICTURES):
        raise ReportError(f"{where} shows a bare picture without alt text; draw it with "
                          "figures.figure() and figures.show()")
    if report and "name" in report:
        part.names.append(report["name"])
    elif report and report.get("text"):
        part.said.append(Markup(output.data["text/html"]))


def _refuse_two_runs(files: Mapping[str, Mapping]) -> None:
    """Settings that every chapter shares must agree: one page is one run."""
    for setting in ("seed", "seeds"):
        values = {name: content["settings"].get(setting) for name, content in files.items()}
        if len(set(values.values())) > 1:
            raise ReportError(f"the chapters ran with different settings: {setting} is "
                              + ", ".join(f"{value} in {name}" for name, value in values.items())
                              + ". `make report` runs what differs again")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.report.page", description=__doc__)
    parser.add_argument("command", choices=["report", "pdf", "brief", "compare"])
    parser.add_argument("profiles", nargs="+")
    options = parser.parse_args(arguments)
    try:
        for path in _run(options.command, options.profiles):
            print(f"open {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    except (ReportError, SettingsError, StoreError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, profiles: Sequence[str]) -> Iterable[Path]:
    if command == "compare":
        from lib.report.compare import compare

        return [compare(*profiles)]
    if command == "brief":
        return brief(*profiles)
    if command == "report":
        return [publish(*profiles)]
    folder = REPORTS / profiles[0]
    return [pdf(folder / "report.html", folder / "report.pdf")]


if __name__ == "__main__":
    sys.exit(main())
