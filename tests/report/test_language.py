"""Plain technical English: the words that readers stumbled over do not come back."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

import pytest

from lib.core import config
from lib.core.paths import NOTEBOOKS, ROOT

WORDS = re.compile(
    r"\b(told apart|tell\w* apart|recognis\w+|teach\w* (?:less|more)|gives? back|given back|"
    r"drawn|judge[sd]?|"
    r"an arm|(?<!on )a side|(?<!from )a seed(?! of)|beyond chance|"
    r"somebody else|yardstick|held against|"
    r"beside (?:it|them) (?:lie|stand)s?|remed(?:y|ies) that validation chose|knows? no|"
    r"by itself knows|handed back|in as many steps|at hand)\b",
    re.IGNORECASE,
)


def prose_of_notebook(path) -> Iterator[str]:
    """Markdown, comments, and strings of more than one word."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield from re.findall(r"(?m)#.*$", source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.value


def texts() -> Iterator[tuple[str, str]]:
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        yield path.name, "\n".join(prose_of_notebook(path))
    for path in sorted((ROOT / "lib/report").rglob("*.j2")):
        code = re.compile(r"\{[{%#].*?[#%}]\}", re.DOTALL)
        yield path.name, code.sub(" ", path.read_text(encoding="utf-8"))
    for path in [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for name, section in config.Settings.model_fields.items():
        fields = section.annotation.model_fields
        yield f"settings of {name}", "\n".join(field.description or "" for field in fields.values())


@pytest.mark.parametrize(("place", "text"), [pytest.param(*pair, id=pair[0]) for pair in texts()])
def test_readers_are_spared_the_private_dialect(place, text):
    seen = [text[max(0, match.start() - 30):match.end() + 20] for match in WORDS.finditer(text)]
    assert not seen, f"{place}: {seen}"


@pytest.mark.parametrize("phrase", ["The two are not told apart.", "Lines drawn between them",
                                    "It teaches less.", "3 classifiers an arm", "beyond chance"])
def test_the_words_are_seen(phrase):
    assert WORDS.search(phrase)
