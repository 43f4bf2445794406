"""One executed notebook becomes a fragment of the page: nbconvert with own preprocessors and template."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from traitlets.config import Config

from lib.report import ReportError

HERE = Path(__file__).parent
SHOWN = ("text/html", "text/markdown", "text/plain")  # best first
DRAWN = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "application/pdf")
FORBIDDEN = ("script", "iframe", "object", "embed", "link", "base", "meta", "form", "style", "video", "audio")


class Outputs(Preprocessor):
    """Keep of the outputs what a reader needs; refuse what did not come from figures.py, naming the cell."""

    def preprocess(self, nb, resources):
        name = resources["metadata"]["name"]
        for number, cell in enumerate(nb.cells, 1):
            if cell.cell_type == "code":
                where = f"{name}.ipynb, cell {number} ({(cell.source.strip().splitlines() or ['empty'])[0][:50]!r})"
                errors = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr")
                cell.metadata["report"] = {"warnings": warnings_in(errors), "summary": summary_of(cell.source)}
                cell.outputs = [kept for output in cell.outputs if (kept := keep(output, where))]
        nb.cells = [
            cell
            for cell in nb.cells
            if cell.source.strip() and not re.search("papermill-error", str(cell.metadata.get("tags")))
        ]
        return nb, resources


class Parameters(Preprocessor):
    """Papermill's parameters and injected-parameters cells become one folded table: name, value, comment."""

    def preprocess(self, nb, resources):
        tagged = {
            tag: cell
            for cell in nb.cells
            for tag in cell.metadata.get("tags", [])
            if tag in ("parameters", "injected-parameters")
        }
        injected = tagged.pop("injected-parameters", None)
        if injected is not None and not tagged:
            tagged["parameters"] = injected
        if tagged:
            values = assignments(injected.source) if injected else {}
            rows = [
                {"name": name, "value": values.get(name, (value, ""))[0], "comment": comment}
                for name, (value, comment) in assignments(tagged["parameters"].source).items()
            ]
            tagged["parameters"].metadata["report"]["parameters"] = rows
        nb.cells = [cell for cell in nb.cells if cell is not injected or cell is tagged.get("parameters")]
        return nb, resources


class Quiet(Preprocessor):
    """Code that shows nothing is folded into the next cell that does, up to the next prose."""

    def preprocess(self, nb, resources):
        cells, waiting = [], []
        for cell in nb.cells:
            report = cell.metadata.get("report", {})
            if cell.cell_type == "code" and not (cell.outputs or report["warnings"] or "parameters" in report):
                waiting.append(cell)
                continue
            if cell.cell_type == "code" and "parameters" not in report:
                cell.source = "\n\n".join(quiet.source for quiet in [*waiting, cell])
            elif cell.cell_type != "code":
                cells += waiting
            waiting = waiting if "parameters" in report else []
            cells.append(cell)
        nb.cells = cells + waiting
        return nb, resources


class Escaped(IPythonRenderer):
    """Raw HTML in Markdown shows as the text that it is."""

    def inline_html(self, html: str) -> str:
        return escape(html)

    def block_html(self, html: str) -> str:
        return f"<p>{escape(html.strip())}</p>\n"


class Fragment(HTMLExporter):
    """HTML of the cells only, all text escaped; headings, ids and numbers are set when the page is put together."""

    preprocessors = [CoalesceStreamsPreprocessor(enabled=True), Outputs, Parameters, Quiet]

    @property
    def default_config(self):
        own = Config({"Fragment": {"template_name": "template", "extra_template_basedirs": [str(HERE)]}})
        own.merge({name: {"enabled": True} for name in ("Outputs", "Parameters", "Quiet")})
        base = super().default_config.copy()
        base.merge(own)
        return base

    @pass_context
    def markdown2html(self, context, source):
        """Markdown without raw HTML (it shows as text) and without anchor marks; mathematics stays as it is written."""
        cell, resources = context.get("cell", {}), context.get("resources", {})
        renderer = Escaped(
            allow_harmful_protocols=False,
            embed_images=True,
            exclude_anchor_links=True,
            attachments=cell.get("attachments", {}),
            path=resources.get("metadata", {}).get("path", ""),
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def keep(output, where: str):
    """The output as the page shows it, or None for what it does not show."""
    if output.output_type == "stream":
        output.text = "\n".join(
            line.split("\r")[-1].rstrip() for line in strip_ansi(output.text).replace("\r\n", "\n").split("\n")
        ).strip()
        return output if output.name == "stdout" and output.text else None
    if output.output_type == "error":
        output.traceback = [strip_ansi(line) for line in output.traceback]
        return output
    kinds = [kind for kind in SHOWN if kind in output.data]
    if "application/vnd.jupyter.widget-view+json" in output.data:
        return None  # live progress, of no use on a page
    if "text/html" not in kinds and any(kind in output.data for kind in DRAWN):
        raise ReportError(
            f"{where} shows a bare picture without alt text; draw it with figures.figure() and figures.show()"
        )
    if not kinds or "application/javascript" in output.data:
        raise ReportError(
            f"{where} shows {', '.join(output.data)}; the page has no script: show figures, tables or text"
        )
    content = output.data[kinds[0]]
    if kinds[0] == "text/html":
        check_html(content, where)
    output.data = {kinds[0]: strip_ansi(content)}
    return output if content.strip() else None


def check_html(markup: str, where: str) -> None:
    """Refuse markup that could run, load, restyle the page or be unreadable."""
    soup = BeautifulSoup(markup, "html.parser")
    for tag in soup.find_all(True):
        if tag.name in FORBIDDEN and not (tag.name == "style" and tag.find_next("table")):
            raise ReportError(
                f"{where} shows HTML with <{tag.name}>; escape text from data, show it with figures.say() or finding()"
            )
        if event := next((name for name in tag.attrs if name.startswith("on")), None):
            raise ReportError(f"{where} shows HTML with the script attribute {event!r}; escape text from data")
        if tag.name == "img" and not tag.get("alt", "").strip():
            raise ReportError(
                f"{where} shows a picture without alt text; use figures.show(fig, name, caption, alt, data)"
            )
        if tag.name == "table" and not tag.find_parent("figure"):
            raise ReportError(f"{where} shows a bare table; use figures.table(frame, name, caption)")


def warnings_in(text: str) -> list[str]:
    """`UserWarning: the message`, each once, without the path of the machine it came from."""
    found = re.findall(r"^(?:.*?:\d+: )?(\w*Warning: .+)$", strip_ansi(text), re.MULTILINE)
    return list(dict.fromkeys(found))


def summary_of(source: str) -> str:
    """One line that says what a cell does: its first comment, else its first line."""
    lines = [line.strip() for line in source.strip().splitlines() if line.strip()]
    comment = next((line.lstrip("# ") for line in lines if line.startswith("#")), None)
    text = comment or next(iter(lines), "")
    return text if len(text) <= 90 else text[:89] + "…"


def assignments(source: str) -> dict[str, tuple[str, str]]:
    """Name -> (value as written, comment at the end of the line) of a parameters cell."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and node.value is not None:
            value = ast.get_source_segment(source, node.value)
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                value = node.value.value
            found[target.id] = (value, comments.get(node.end_lineno, ""))
    return found
