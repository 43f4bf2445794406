"""Every template on kept and on generated results: it renders, and each word agrees with `verdict`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.paths import ROOT
from lib.measure.stats import verdict
from lib.report import ReportError, text
from tests.report.checks import numbers_in, words_in

ENVIRONMENT = text.environment
FOLDER = Path(text.__file__).parent / "text"
FIXTURES = {path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(Path(__file__).with_name("results").glob("*.json"))}
KEPT = [pytest.param(path.stem, content["results"], id=f"{path.parts[-3]}-{path.stem}")
        for path in sorted((ROOT / "reports").glob("*-small/results/0*.json"))
        if "results" in (content := json.loads(path.read_text(encoding="utf-8")))]
WORDS = {"higher": r"higher|raises", "lower": r"lower|lowers", "equivalent": "equivalent",
         "inconclusive": "inconclusive|inconclusively"}
DIRECTIONS = re.compile(rf"\b({'|'.join(WORDS.values())}|better|worse|significant)\b")
CHAPTERS = pytest.mark.parametrize("chapter", text.CHAPTERS)


def is_result(tree: object) -> bool:
    return isinstance(tree, Mapping) and {"mean", "low", "high"} <= set(tree)


def differences(tree: object) -> Iterator[Mapping]:
    """Every result of a tree of results."""
    if is_result(tree):
        yield tree
    elif isinstance(tree, (Mapping, list)):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from differences(part)


def estimate(rng: np.random.Generator) -> dict:
    """A difference of any sign and width; half of them have a 90 % interval of their own."""
    mean, half = rng.uniform(-0.6, 0.6), rng.choice([0.001, 0.01, 0.1, 0.5])
    mean *= rng.choice([0.001, 1])
    inner = {"low90": mean - 0.8 * half, "high90": mean + 0.8 * half} if rng.random() < 0.5 else {}
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 3, "p": 0.03, **inner}


def generated(tree: object, rng: np.random.Generator) -> object:
    """The same tree with other results in it."""
    if is_result(tree):
        return {**tree, **estimate(rng)}
    if isinstance(tree, Mapping):
        return {key: generated(part, rng) for key, part in tree.items()}
    return [generated(part, rng) for part in tree] if isinstance(tree, list) else tree


def sentences(markdown: str) -> list[str]:
    return re.split(r"(?<=[.])\s+(?=[A-Z*])", markdown)


def test_every_template_has_a_fixture():
    assert {path.name.removesuffix(".md.j2") for path in FOLDER.glob("*.j2")} == set(FIXTURES)


@pytest.mark.parametrize(("chapter", "results"), [*FIXTURES.items(), *KEPT])
def test_renders_on_kept_results(chapter, results):
    markdown = text.render(chapter, results)
    assert markdown.startswith("**Answer.** ")
    assert not re.search(r"nan|None|\{|\}|Undefined", markdown)


@CHAPTERS
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_each_word_agrees_with_verdict(chapter, seed):
    results = generated(FIXTURES[chapter], np.random.default_rng(seed))
    words: dict[str, set] = {}
    for difference in differences(results):
        words.setdefault(text.points(difference), set()).add(verdict(difference))
    stating = [
        sentence
        for sentence in sentences(text.render(chapter, results))
        if " remedies for " not in sentence
    ]
    for sentence in stating:
        stated = {
            word for word, pattern in WORDS.items() if re.search(rf"\b({pattern})\b", sentence)
        }
        printed = [
            words[shown]
            for shown in words
            if re.search(rf"(?<![+−\d.]){re.escape(shown)}", sentence)
        ]
        assert len(stated) <= 1, sentence
        assert not stated or printed, f"a word without its difference: {sentence}"
        assert all(stated & possible for possible in printed if stated), sentence


GAPS = {"lower": (-0.2, -0.3, -0.1), "higher": (0.2, 0.1, 0.3), "equivalent": (0, -0.001, 0.001),
        "inconclusive": (0.01, -0.1, 0.12)}


def gaps(names: Sequence[str], words: Sequence[str]) -> dict[str, dict]:
    return {name: dict(zip(("mean", "low", "high"), GAPS[word], strict=True)) | {"n": 3}
            for name, word in zip(names, words, strict=False)}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_the_answer_agrees_with_every_combination_of_verdicts(count, more):
    for words in itertools.product(GAPS, repeat=count + more):
        alone, mixed = words[:count], words[count:]
        results = FIXTURES["00_summary"] | {
            "smallest": "sd", "replaced": gaps(["sd", "cd", "di"], alone),
            "added": gaps(["real+sd", "real+di"], mixed)}
        (answer,) = text.paragraphs("00_summary", results)["Answer"]
        assert len(sentences(answer)) == 1 and answer.endswith("."), answer
        assert len(words_in(answer)) <= 30 and len(numbers_in(answer)) <= 3, answer
        first, _, second = answer.partition(";")
        assert bool(second) == bool(mixed)
        assert ("do not replace" in first) == (set(alone) == {"lower"}), answer
        assert first.startswith("Synthetic images replace real ones here") == (
            set(alone) <= {"higher", "equivalent"}), answer
        for part, stated in ((first, alone), (second, mixed)):
            for word, pattern in WORDS.items():
                assert bool(re.search(rf"\b({pattern})\b", part)) == (word in stated), answer
                if len(set(stated)) > 1 and word in stated:
                    number = text.spelled([word] * stated.count(word))
                    assert f"{word} for {number}" in part, answer


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_remedies_are_counted_by_their_verdict(seed):
    results = generated(FIXTURES["08_repair"], np.random.default_rng(seed))
    verdicts = [verdict(gain) for gain in results["gains"].values()]
    higher, lower = verdicts.count("higher"), verdicts.count("lower")
    assert f"{higher} give higher and {lower} give lower" in text.render("08_repair", results)


@CHAPTERS
def test_words_for_a_difference_stand_only_where_verdict_chooses(chapter):
    source = (FOLDER / f"{chapter}.md.j2").read_text(encoding="utf-8")
    plain = re.sub(r"\{% set phrases = \{.*?\} %\}", "", source, flags=re.S)
    assert not DIRECTIONS.search(re.sub(r'having\("\w+"\) \| count \}\}\s+give \w+', "", plain))
    assert not re.search(r"\.(low|high|mean|p)\b\s*[<>]", source)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "[x](javascript:alert(1))", "a*b_c`d", "$x$"]
)
def test_names_from_the_data_are_only_text(name, monkeypatch):
    monkeypatch.setattr(
        text, "environment", lambda: _environment("**Answer.** The class is {{ name }}.")
    )
    page = text.to_html(text.render("any", {"name": name}))
    assert not re.search("<script|<a |<em|<code", page)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("**Answer.** {{ number }}", "through a filter"),
        ("**Answer.** {{ missing }}", "missing"),
        ("**But.** No answer.", "at most one paragraph"),
        ("**Answer.** a\n\n**Answer.** b", "at most one paragraph"),
        ("More. **Answer.** a", "at most one paragraph"),
        ("**Answer.**", "at most one paragraph"),
    ],
)
def test_refuses(source, why, monkeypatch):
    monkeypatch.setattr(text, "environment", lambda: _environment(source))
    with pytest.raises(ReportError, match=why):
        text.render("any", {"number": 3})


def test_filters():
    result = {"mean": -0.245, "low": -0.255, "high": -0.235, "n": 3}
    assert text.points(result) == "−24.5 points" and text.ci(result) == "[−25.5, −23.5]"
    assert text.pct(0.614) == "61.4 %" and text.count(1234) == "1,234" and text.count([1, 2]) == "2"
    assert [text.seconds(s) for s in (0.44, 30, 700, 12600)] == ["0.4 s", "30 s", "12 min", "3.5 h"]
    assert text.label("0.1*real+sd") == "10 % of the real images and text-to-image samples"
    assert (
        text.having({"sd": result}, "lower") == ["sd"]
        and text.listed(["a", "b", "c"]) == "a, b and c"
    )


def _environment(source: str):
    found = ENVIRONMENT()
    found.loader = jinja2.DictLoader({"any.md.j2": source})
    return found
