"""Figures, sheets and tables: what is saved, what is shown, what is refused."""

from __future__ import annotations

import base64
import io
import itertools
import re

import numpy as np
import pandas as pd
import pytest
import seaborn
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from jupyter_client.manager import start_new_kernel
from PIL import Image

from lib.core.paths import ROOT
from lib.report import ReportError, figures, style
from lib.report import contact_sheet as sheet

EVIL = '<script>alert("1")</script>'
FRAME = pd.DataFrame({"arm": ["real", EVIL, "$x$"], "accuracy": [0.931, 0.5, -1.25]})
RESULT = {"mean": 81.25, "low": 80.8, "high": 81.7, "n": 3}


@pytest.fixture
def out(tmp_path):
    """A notebook that has begun."""
    InteractiveShell.instance()
    figures.begin(tmp_path, "01_data")
    return tmp_path


def shown(make, *arguments, **options) -> BeautifulSoup:
    """The HTML that a call displays."""
    with capture_output() as captured:
        make(*arguments, **options)
    assert len(captured.outputs) == 1
    return BeautifulSoup(captured.outputs[0].data["text/html"], "html.parser")


def bars():
    fig, axes = figures.figure(width="narrow")
    axes.bar(
        FRAME.arm,
        FRAME.accuracy,
        yerr=0.1,
        color=[figures.color(arm) for arm in ("real", "sd", "cd")],
    )
    axes.set_title(EVIL)
    return fig


def test_figure_is_saved_with_its_numbers(out):
    soup = shown(
        figures.show, bars(), "bars", f"Real wins over {EVIL}.", f"Three bars, {EVIL}.", FRAME
    )
    saved = (out / "figures/01_data_bars.svg").read_text(encoding="utf-8")
    assert base64.b64decode(soup.img["src"].split(",")[1]).decode() == saved
    pd.testing.assert_frame_equal(pd.read_csv(out / "figures/01_data_bars.csv"), FRAME)
    assert (
        soup.img["alt"] == f"Three bars, {EVIL}."
        and EVIL in soup.figcaption.get_text()
        and not soup.script
    )
    assert (
        soup.figure["id"] == "fig-bars"
        and soup.figure["class"] == ["figure", "narrow"]
        and int(soup.img["width"]) == 460
    )


def test_same_figure_same_bytes_in_text_and_themes():
    text = style.svg(bars())
    assert text == style.svg(bars())
    assert "<text" in text and "$x$" in text and "alert" in text and "<script" not in text
    assert "<dc:date>" not in text and "prefers-color-scheme: dark" in text
    drawn = text[text.index("</style>") :]
    left = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn))
    assert not left, f"colours that do not follow the theme: {left}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"alt": " "}, "no alt: say what is to be seen"),
        ({"caption": ""}, "no caption: state what it shows"),
        ({"caption": "The mean is nan."}, "a number is missing"),
        ({"name": "Big Name"}, "small letters"),
        ({"data": FRAME[:0]}, "DataFrame with the numbers"),
        ({"data": [1]}, "not list"),
    ],
)
def test_figure_refuses(out, change, complaint):
    good = {"name": "bars", "caption": "Real wins.", "alt": "Bars.", "data": FRAME}
    with pytest.raises(ReportError, match=complaint):
        figures.show(bars(), **{**good, **change})
    assert not list((out / "figures").iterdir())


def test_a_name_is_used_once_and_begin_comes_first(out, monkeypatch):
    shown(figures.table, FRAME, "one", "Numbers.")
    with pytest.raises(ReportError, match="'one' names two figures or tables of 01_data"):
        figures.show(bars(), "one", "Real wins.", "Bars.", FRAME)
    monkeypatch.setattr(figures, "_place", figures.Place())
    with pytest.raises(ReportError, match=r"call figures.begin\(out, notebook\)"):
        figures.table(FRAME, "two", "Numbers.")


def test_the_same_cell_may_run_again_in_lab(tmp_path):
    """JupyterLab sends the id of the cell with each run; a real kernel is told the same here."""
    begin = (
        "import pandas as pd\nfrom lib.report import figures\n"
        f"figures.begin({str(tmp_path)!r}, '01_data')"
    )
    table = "figures.table(pd.DataFrame({'a': [1]}), 'one', 'Numbers.')"
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        runs = [(begin, "a"), (table, "b"), (table, "b"), (table, "c"), (f"{table};{table}", "b")]
        assert [run_cell(client, *run) for run in runs] == ["ok", "ok", "ok", "error", "error"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_cell(client, code: str, cell: str) -> str:
    """Execute as Lab does; `ok` or `error`."""
    # else what comes soon after an error is aborted unread
    content = {"code": code, "silent": False, "stop_on_error": False}
    message = client.session.msg("execute_request", content, metadata={"cellId": cell})
    client.shell_channel.send(message)
    replies = iter(lambda: client.get_shell_msg(timeout=60), None)
    own = message["header"]["msg_id"]
    return next(
        reply["content"]["status"]
        for reply in replies
        if reply["parent_header"].get("msg_id") == own
    )


def test_jet_and_oversized_figures_are_refused():
    fig, axes = figures.figure()
    axes.imshow(np.eye(4), cmap="jet")
    with pytest.raises(ReportError, match="colour map 'jet'.*cividis"):
        style.svg(fig)
    with pytest.raises(ReportError, match="rasterized=True"):
        style.embedded("<svg>" + " " * style.SVG_LIMIT + "</svg>")
    with pytest.raises(ReportError, match="no valid SVG"):
        style.embedded("<svg>\x00</svg>")


def test_seaborn_follows_the_theme_too():
    """It takes a quarter of the saturation out of every fill and draws error bars in its own grey.
    """
    fig, axes = figures.figure()
    twice, colors = pd.concat([FRAME, FRAME.assign(accuracy=2)]), figures.palette(list(FRAME.arm))
    seaborn.barplot(twice, x="arm", y="accuracy", hue="arm", palette=colors, ax=axes)
    text = style.svg(fig)
    assert "fill: var(--real)" in text and not re.findall(
        r"(?:fill|stroke): #", text[text.index("</style>") :]
    )


def test_log_axes_say_plain_numbers():
    fig, axes = figures.figure()
    axes.plot([1, 10_000], [1, 2])
    axes.set_xscale("log")
    text = style.svg(fig)
    assert ">10,000<" in text and "mathdefault" not in text


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(
        np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        @ [0.2126, 0.7152, 0.0722]
    )


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear sRGB."""
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ rgb
        / [0.9505, 1, 1.089]
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [0, 1])
def test_arms_are_told_apart_without_red_or_green(theme):
    """Contrast 3 on paper; 12 units of L*a*b* between arms, also with protan- and deuteranopia
    (Vienot et al. 1999).
    """
    blind = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "none": np.eye(3),
    }
    colors = {name: pair[theme] for name, pair in style.THEME.items()}
    for name in set(colors) - {"paper", "grid"}:
        light, dark = sorted((luminance(colors[name]), luminance(colors["paper"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= (4.5 if name in ("ink", "muted") else 3), name
    for kind, matrix in blind.items():
        seen = {}
        for name in (
            "real",
            "sd",
            "cd",
            "di",
            "published",
            "real+sd",
            "real+cd",
            "real+di",
            "real+published",
        ):
            rgb = np.array([int(colors[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
            seen[name] = lab(
                np.clip(
                    np.array(matrix)
                    @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4),
                    0,
                    1,
                )
            )
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 12, (kind, a, b)


def test_an_arm_keeps_its_color():
    assert figures.color("0.1*real+sd") == figures.color("sd+real") == style.THEME["real+sd"][0]
    assert figures.palette(["cube", "real", "cone"])["real"] == figures.color("real")
    forms = figures.marks(["real", "sd", "real+sd", "real+cd"])
    assert len(set(forms.values())) == 4 and forms["sd"] == figures.marks(["sd"])["sd"]
    several = figures.palette(["real", *"abcdefgh"])
    assert len(set(several.values())) == 9


@pytest.mark.parametrize(
    ("result", "options", "text"),
    [
        (RESULT, {}, "81.2 ± 0.5"),
        (RESULT, {"digits": 2, "unit": " %"}, "81.25 % ± 0.45"),
        ({"mean": 0.5, "low": 0.25, "high": 0.75, "n": 1200}, {"scale": 100}, "50.0 ± 25.0"),
        ({"mean": -1.0, "low": -1.1, "high": -0.5, "n": 9}, {}, "−1.0 [−1.1, −0.5]"),
        ({"mean": -0.04, "low": -0.08, "high": 0.0, "n": 3}, {}, "0.0 ± 0.0"),
        ({"mean": 2.0, "low": None, "high": None, "n": 1}, {}, "2.0 (one run)"),
    ],
)
def test_a_result_is_mean_interval_and_n(result, options, text):
    assert figures.value(result, **options) == text


@pytest.mark.parametrize(
    "change", [{"n": 0}, {"n": None}, {"mean": float("nan")}, {"low": None}, {"low": 90.0}]
)
def test_less_is_no_result(change):
    with pytest.raises(ReportError):
        figures.value({**RESULT, **change})
    with pytest.raises(ReportError, match="needs mean, low, high and n"):
        figures.value({"mean": 1.0})


def test_table(out):
    frame = FRAME.assign(result=[RESULT, RESULT, "not run: needs a download"], count=[1, 12345, 2])
    columns = {"arm": "training set", "result": "result, %", "count": "images", "accuracy": EVIL}
    soup = shown(
        figures.table,
        frame,
        "arms",
        "All.",
        columns=columns,
        formats={"accuracy": "+.1f"},
        note="Seeds 0–2.",
    )
    assert [th.get_text() for th in soup.thead.find_all("th")] == list(columns.values())
    first = [cell.get_text() for cell in soup.tbody.find("tr")]
    assert first == ["real", "81.2 ± 0.5", "1", "+0.9"] and not soup.script
    assert (
        soup.tbody.find_all("tr")[2].td["class"] == ["not-run"]
        and soup.tbody.find_all("tr")[1].find_all("td")[1].get_text() == "12,345"
    )
    assert [th.get("class") for th in soup.thead.find_all("th")] == [
        None,
        ["num"],
        ["num"],
        ["num"],
    ]
    saved = pd.read_csv(out / "figures/01_data_arms.csv")
    assert (
        list(saved)[:5] == ["arm", "result_mean", "result_low", "result_high", "result_n"]
        and saved.arm[1] == EVIL
    )


def test_a_cell_of_many_words_keeps_its_width(out):
    frame = pd.DataFrame(
        {
            "arm": ["real", "sd"],
            "why": ["short", "a sentence that goes on for longer than a narrow column"],
        }
    )
    cells = shown(figures.table, frame, "why", "All.").tbody.find_all("td")
    assert [cell.get("class") for cell in cells] == [None, ["long"]]
    soup = shown(
        figures.table,
        pd.DataFrame({"arm": ["all layers, 240 real", "sd"], "gap": ["–", 1.5]}),
        "gap",
        "All.",
    )
    assert [cell.get("class") for cell in soup.tbody.find_all(["th", "td"])] == [
        ["some"],
        ["num"],
        None,
        ["num"],
    ]


def test_labels_of_a_sheet_fit_or_say_that_they_are_cut():
    pictures = np.zeros((10, 64, 64, 3), np.uint8)
    grid = sheet.Grid.of(pictures, 10, None, ["octahedron"] * 10, None, 980, "classes")
    assert grid.lines("octahedron") == ["octahedron"] and grid.lines(
        "a photo of a red cube on a wooden floor"
    )[2].endswith("…")
    assert grid.lines("a photo of a cube") == ["a photo of", "a cube"]


def test_table_refuses(out):
    with pytest.raises(ReportError, match="column 'Accuracy', row 1 is missing"):
        figures.table(FRAME.assign(accuracy=[1, np.nan, 2]), "holes", "Numbers.")
    with pytest.raises(ReportError, match="no column 'acuracy'; its columns are 'arm', 'accuracy'"):
        figures.table(FRAME, "typo", "Numbers.", columns=["acuracy"])
    with pytest.raises(ReportError, match="has no rows"):
        figures.table(FRAME[:0], "empty", "Numbers.")


def test_prose_is_escaped(out):
    soup = shown(figures.say, f"One {EVIL}.\n\nTwo.")
    assert len(soup.find_all("p")) == 2 and EVIL in soup.get_text() and not soup.script
    with pytest.raises(ReportError, match="says nothing"):
        figures.say(" ")
    with pytest.raises(ReportError, match="a number is missing"):
        figures.say("The gap is nan points.")
    # classes may be so called
    figures.say("Not balanced: nan has 10 training images, Nan Goldin 5.")


@pytest.mark.parametrize(("caption", "complaint"), [
    ("one two three four five six seven eight nine ten eleven twelve thirteen.", "has 13 words"),
    ("Real wins. " + "word " * 31, "caption after the headline.*has 31 words")])
def test_long_captions_are_refused(out, caption, complaint):
    with pytest.raises(ReportError, match=complaint):
        figures.show(bars(), "bars", caption, "Bars.", FRAME)
    assert not list((out / "figures").iterdir())


def picture(text: str) -> np.ndarray:
    """The one picture inside a sheet."""
    found = re.search(r'data:image/\w+;base64,\s*([^"]+)"', text)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB"))


def test_sheet_keeps_every_pixel_in_its_place(out):
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    soup = shown(
        figures.contact_sheet,
        images,
        "sheet",
        "Noise.",
        "Seven noises.",
        columns=4,
        rows=["a", EVIL],
        titles=list("abcdefg"),
    )
    text = (out / "figures/01_data_sheet.svg").read_text(encoding="utf-8")
    grid = sheet.Grid.of(
        images, 4, ["a", EVIL], list("abcdefg"), None, style.WIDTHS["full"], "sheet"
    )
    whole = picture(text)
    assert whole.shape[:2] == grid.size[::-1] and "pixelated" in text and not soup.script
    for i, image in enumerate(images):
        x, y = grid.corner(i)
        np.testing.assert_array_equal(whole[y : y + 6, x : x + 5], image)
    saved = pd.read_csv(out / "figures/01_data_sheet.csv")
    assert (
        saved.title.tolist() == list("abcdefg") and saved.label.tolist() == ["a"] * 4 + [EVIL] * 3
    )


def test_large_sheet_is_packed():
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    smooth = np.sort(images, axis=2)
    text = sheet.svg(sheet.Grid.of(smooth, 10, None, None, None, 980, "large"))
    assert "data:image/jpeg" in text and len(text) < 450_000
    x, y = sheet.Grid.of(smooth, 10, None, None, None, 980, "large").corner(11)
    assert np.abs(picture(text)[y : y + 64, x : x + 64].astype(int) - smooth[11]).mean() < 12


def test_mask_outline_and_overlays():
    """A block of a x b pixels has 2(a + b) unit sides, half a pixel outside its outermost centres.
    """
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:7] = True
    edges = sheet._border(mask)
    assert len(edges) == 2 * (3 + 6)
    assert (
        edges[..., 0].min() == 0.5
        and edges[..., 0].max() == 6.5
        and edges[..., 1].min() == 1.5
        and edges[..., 1].max() == 4.5
    )
    overlays = [{"mask": mask, "segments": {EVIL: [[0, 0, 7, 7]]}, "points": [[3, 3]]}]
    text = sheet.svg(
        sheet.Grid.of(np.zeros((1, 8, 8, 3), np.uint8), None, None, None, overlays, 460, "one")
    )
    assert (
        all(
            color in text
            for color in (style.PICTURE["mask"], style.PICTURE["first"], style.PICTURE["second"])
        )
        and "alert" in text
    )
    with pytest.raises(ReportError, match="overlay 'lines' is not known"):
        sheet.svg(
            sheet.Grid.of(
                np.zeros((1, 8, 8, 3), np.uint8), None, None, None, [{"lines": []}], 460, "one"
            )
        )


@pytest.mark.parametrize(
    ("images", "rows", "complaint"),
    [
        (np.zeros((2, 4, 4, 3)), None, "uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), None, "n >= 1"),
        (
            np.zeros((2, 4, 4, 3), np.uint8),
            ["a", "b", "c"],
            "3 rows for 2 images in 2 columns; expected 1",
        ),
    ],
)
def test_sheet_refuses(out, images, rows, complaint):
    with pytest.raises(ReportError, match=complaint):
        figures.contact_sheet(images, "sheet", "Nothing.", "Nothing.", columns=2, rows=rows)
