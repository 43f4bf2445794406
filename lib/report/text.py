"""The prose of a chapter: `text/<chapter>.md.j2` over its results, at most three paragraphs.

Numbers reach the text through filters alone, and a word for a difference (`higher`, `lower`,
`equivalent`, `inconclusive`) through `verdict` alone. Strings from the data are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import jinja2
import mistune
from IPython.display import display
from markupsafe import Markup

from lib.measure.stats import verdict
from lib.report import ReportError
from lib.report.style import label
from lib.report.tables import minus, refuse_nan

PARAGRAPHS = ("**Answer.**", "**But.**", "**Limits.**")
CHAPTERS = [path.name.removesuffix(".md.j2")
            for path in sorted(Path(__file__).with_suffix("").glob("0[1-9]_*.md.j2"))]
MARKDOWN = re.compile(r"([\\`*_\[\]!|#~$])")


def render(chapter: str, results: Mapping[str, Any]) -> str:
    """Markdown of a chapter's paragraphs; a key that the template needs and `results` lacks is an error."""
    try:
        text = environment().get_template(f"{chapter}.md.j2").render(results)
    except jinja2.UndefinedError as error:
        raise ReportError(f"lib/report/text/{chapter}.md.j2: {error} in the chapter's results") from error
    before, *parts = re.split(r"(\*\*(?:Answer|But|Limits)\.\*\*)", text)
    paragraphs = dict(zip(parts[::2], (" ".join(part.split()) for part in parts[1::2]), strict=True))
    in_order = ["**Answer.**", *(head for head in PARAGRAPHS[1:] if head in paragraphs)]
    if before.strip() or parts[::2] != in_order or not all(paragraphs.values()):
        raise ReportError(f"lib/report/text/{chapter}.md.j2: at most one paragraph each of {', '.join(PARAGRAPHS)}")
    refuse_nan(f"the text of {chapter}", text)
    return "\n\n".join(f"{head} {part}" for head, part in paragraphs.items())


def to_html(markdown: str) -> str:
    """The same text for the page and for JupyterLab."""
    return f'<div class="text">{mistune.create_markdown(escape=True)(markdown)}</div>'


def show(chapter: str, results: Mapping[str, Any]) -> None:
    """Print a chapter's paragraphs in its notebook."""
    text = render(chapter, results)
    display({"text/html": to_html(text), "text/plain": text}, raw=True)


def answer(chapter: str, results: Mapping[str, Any]) -> Markup:
    """The chapter's first paragraph, to be quoted by another; its text is escaped already."""
    return Markup(render(chapter, results).split("\n\n")[0].removeprefix(PARAGRAPHS[0]).strip())


def show_answers(answers: Mapping[str, str]) -> None:
    """Print the answers of several chapters as a list, each with a link to its chapter."""
    lines = [f"- [{name[:2]}]({name}.ipynb) {text}" for name, text in answers.items()]
    display({"text/html": to_html("\n".join(lines)), "text/plain": "\n".join(lines)}, raw=True)


def environment() -> jinja2.Environment:
    """Strict: no undefined name, no number without a filter, nothing unescaped."""
    found = jinja2.Environment(loader=jinja2.PackageLoader("lib.report", "text"), autoescape=True,
                               undefined=jinja2.StrictUndefined, finalize=_escape)
    found.filters |= {"verdict": verdict, "count": count, "pct": pct, "points": points, "ci": ci, "seconds": seconds,
                      "decimal": decimal, "listed": listed, "label": label, "having": having}
    return found


def _escape(value: Any) -> Any:
    """What a template prints: text of the data without its Markdown; a bare number or result is refused."""
    if isinstance(value, (Real, Mapping)) or value is None:
        raise ReportError(f"a template prints {value!r}; pass it through a filter such as `count` or `pct`")
    return value if isinstance(value, Markup) else MARKDOWN.sub(r"\\\1", str(value))


def count(value: Real | Sequence) -> str:
    """`1,234`, of a number or of the members of a list."""
    return f"{value if isinstance(value, Real) else len(value):,.0f}"


def pct(result: Mapping | Real, digits: int = 1) -> str:
    """`61.4 %`, of a share."""
    return minus(f"{100 * _mean(result):.{digits}f} %")


def points(result: Mapping | Real) -> str:
    """`−24.5 points`, of a difference of shares."""
    return minus(f"{100 * _mean(result):+.1f} points")


def ci(result: Mapping, scale: float = 100) -> Markup:
    """`[−25.5, −23.5]`, the 95 % confidence interval of a share or a difference of shares."""
    return Markup(minus(f"[{scale * result['low']:.1f}, {scale * result['high']:.1f}]"))


def seconds(value: Real) -> str:
    """`0.4 s`, `12 min`, `3.5 h`."""
    if value < 60:
        return f"{value:.{1 if value < 10 else 0}f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h"


def decimal(result: Mapping | Real, digits: int = 2) -> str:
    """`0.57`."""
    return minus(f"{_mean(result):.{digits}f}")


def listed(names: Sequence[str]) -> str:
    """`sd, cd and di`."""
    names = list(map(str, names))
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def having(results: Mapping[str, Mapping], word: str) -> list[str]:
    """Names of the differences with this verdict."""
    return [name for name, result in results.items() if verdict(result) == word]


def _mean(result: Mapping | Real) -> float:
    return result["mean"] if isinstance(result, Mapping) else result
