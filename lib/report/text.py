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
from markupsafe import Markup

from lib.measure.stats import verdict
from lib.report import ReportError
from lib.report.figures import show_html
from lib.report.style import label
from lib.report.tables import minus, refuse_nan

SUMMARY = "00_summary"
HEADS = ("Answer", "But", "Limits")
SUMMARY_HEADS = ("Answer", "Take-aways", "Caveats")  # the last two are lists
CHAPTERS = [path.name.removesuffix(".md.j2")
            for path in sorted(Path(__file__).with_suffix("").glob("0[1-9]_*.md.j2"))]
MARKDOWN = re.compile(r"([\\`*_\[\]!|#~$])")


def paragraphs(chapter: str, results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The text of a chapter: head -> Markdown, one string a paragraph or list item."""
    try:
        text = environment().get_template(f"{chapter}.md.j2").render(results)
    except jinja2.UndefinedError as error:
        raise ReportError(f"lib/report/text/{chapter}.md.j2: {error} in the chapter's results"
                          ) from error
    allowed = SUMMARY_HEADS if chapter == SUMMARY else HEADS
    before, *parts = re.split(rf"\*\*({'|'.join(allowed)})\.\*\*", text)
    heads, bodies = parts[::2], [_items(part) for part in parts[1::2]]
    in_order = [head for head in allowed if head in heads or head == "Answer"]
    if before.strip() or heads != in_order or not all(bodies):
        raise ReportError(f"lib/report/text/{chapter}.md.j2: at most one paragraph each of "
                          f"{', '.join(allowed)}, the first always")
    refuse_nan(f"the text of {chapter}", text)
    return dict(zip(heads, bodies, strict=True))


def render(chapter: str, results: Mapping[str, Any]) -> str:
    """The same as one Markdown text."""
    parts = paragraphs(chapter, results)
    return "\n\n".join(f"**{head}.** {body[0]}" if len(body) == 1 else
                       f"**{head}.**\n\n" + "\n".join(f"- {item}" for item in body)
                       for head, body in parts.items())


def to_html(markdown: str) -> Markup:
    """Markdown as HTML; raw HTML in it is text."""
    return Markup(mistune.create_markdown(escape=True)(markdown))


def show(chapter: str, results: Mapping[str, Any]) -> None:
    """Print a chapter's paragraphs in its notebook."""
    text = render(chapter, results)
    show_html(f'<div class="text">{to_html(text)}</div>', text)


def environment() -> jinja2.Environment:
    """Strict: no undefined name, no number without a filter, nothing unescaped."""
    strict = jinja2.Environment(loader=jinja2.PackageLoader("lib.report", "text"), autoescape=True,
                                undefined=jinja2.StrictUndefined, finalize=_escape)
    strict.filters |= {
        "verdict": verdict, "count": count, "pct": pct, "points": points, "ci": ci, "size": size,
        "seconds": seconds, "decimal": decimal, "listed": listed, "label": label,
        "having": having, "selected": selected, "sized": sized,
        "spelled": spelled}
    return strict


def _items(text: str) -> list[str]:
    return [" ".join(item.split()) for item in re.split(r"(?m)^- ", text) if item.strip()]


def _escape(value: Any) -> Any:
    """What a template prints: text without its Markdown; a bare number or result is refused."""
    if isinstance(value, (Real, Mapping)) or value is None:
        raise ReportError(f"a template prints {value!r}; pass it through a filter such as `count` "
                          "or `pct`")
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


def size(result: Mapping | Real) -> str:
    """`24.5`, the size of a difference of shares in points."""
    return f"{abs(100 * _mean(result)):.1f}"


def spelled(names: Sequence) -> str:
    """`three`, of the members of a list; digits from ten on."""
    small = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return small[len(names)] if len(names) < len(small) else str(len(names))


def selected(results: Mapping[str, Mapping], names: Sequence[str]) -> dict[str, Mapping]:
    """These differences alone."""
    return {name: results[name] for name in names}


def sized(results: Mapping[str, Mapping]) -> list[Mapping]:
    """Differences, the smallest first."""
    return sorted(results.values(), key=lambda result: abs(_mean(result)))


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
