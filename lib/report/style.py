"""The look of every figure: colours that follow the reader's light or dark, type, and the SVG they
end in.

A figure is drawn in the colours of the light theme; in the saved SVG each of them becomes a CSS
variable with a second value for the dark theme. So the picture follows the reader without a script,
on the page and in JupyterLab.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re
import zlib
from xml.etree import ElementTree

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from lib.report import ReportError

# name: (light, dark). The hues of Okabe and Ito, moved until each has a contrast of 3 on its paper
# and every two arms differ by 13 units of L*a*b* for readers with full, protanopic and deuteranopic
# sight; a mix is its set, darker.
THEME = {
    "paper": ("#fcfcfa", "#15181c"),
    "ink": ("#1c1f23", "#e8e8e5"),
    "muted": ("#585e66", "#a6adb5"),
    "grid": ("#dedfda", "#30363d"),
    "real": ("#0072b2", "#5ab4ee"),
    "sd": ("#c24300", "#ea7a37"),
    "cd": ("#008a64", "#26c795"),
    "di": ("#b4558a", "#e59ac6"),
    "published": ("#b58900", "#f0cf5a"),
    "real+sd": ("#6e2c00", "#b85c28"),
    "real+cd": ("#08593e", "#1a9a74"),
    "real+di": ("#703a58", "#b9739b"),
    "real+published": ("#7a6d33", "#cfad59"),
    "other": ("#6b6f76", "#969ca4"),
}
HEAT = "cividis"  # perceptually even, and the same to readers who do not tell red from green
PICTURE = {
    "mask": "#ffd60a",
    "first": "#ff5ca8",
    "second": "#3ddcff",
    "third": "#9dff57",
    "fourth": "#ffffff",
}
WIDTHS = {"narrow": 460, "wide": 740, "full": 980}  # pixels of the page
FONTS = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
SVG_LIMIT = 1_500_000  # bytes: the whole page has ten million

RC = {
    "figure.facecolor": THEME["paper"][0],
    "savefig.facecolor": THEME["paper"][0],
    "axes.facecolor": THEME["paper"][0],
    "text.color": THEME["ink"][0],
    "axes.labelcolor": THEME["ink"][0],
    "axes.titlecolor": THEME["ink"][0],
    "xtick.color": THEME["muted"][0],
    "ytick.color": THEME["muted"][0],
    "axes.edgecolor": THEME["muted"][0],
    "grid.color": THEME["grid"][0],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # measured in the font that ships with matplotlib
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "legend.frameon": False,
    "patch.linewidth": 0,
    "hatch.linewidth": 0.8,
    "errorbar.capsize": 3,
    "image.cmap": HEAT,
    "image.interpolation": "none",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": matplotlib.cycler(
        color=[THEME[n][0] for n in ("real", "sd", "cd", "di", "published", "other")]
    ),
    "svg.fonttype": "none",
    "svg.hashsalt": "one report",
    "text.parse_math": False,  # a class may be called $x$
}


def color(name: str) -> str:
    """The one colour of an arm, set or theme entry: `real`, `sd`, `0.1*real+sd`, `ink`; others get
    a fixed one.
    """
    parts = sorted(
        {re.sub(r"^[\d.]+\*", "", part.strip()) for part in str(name).split("+")},
        key=lambda p: p != "real",
    )
    plain = "+".join(parts)
    if plain in THEME:
        return THEME[plain][0]
    if len(parts) > 1:
        return THEME["other"][0]
    spare = ("sd", "cd", "di", "published", "real+sd", "real+cd", "real+di", "other")
    return THEME[spare[zlib.crc32(plain.encode()) % len(spare)]][0]


def adaptive(name: str) -> str:
    """The colour of a training set in CSS, for light and dark pages."""
    light = color(name)
    return f"light-dark({light}, {next(dark for key, dark in THEME.values() if key == light)})"


def palette(names: list[str]) -> dict[str, str]:
    """A colour for each name: arms keep their own, the others share what is left, in order."""
    known = {
        name: color(name) for name in names if str(name).split("*")[-1] in THEME or "+" in str(name)
    }
    left = [
        light
        for key, (light, _) in THEME.items()
        if key not in ("paper", "ink", "muted", "grid") and light not in known.values()
    ]
    others = [name for name in names if name not in known]
    return {name: known.get(name) or left[others.index(name) % len(left)] for name in names}


def marks(names: list[str]) -> dict[str, str]:
    """A mark for each name of a line plot, so that nobody needs the colours: sets keep their own,
    the others share the rest.
    """
    own = dict(zip(("real", "sd", "cd", "di", "published"), "os^vP", strict=True))
    others = [name for name in names if name not in own]
    return {name: own.get(name) or "DXd<>*"[others.index(name) % 6] for name in names}


def svg(figure: Figure) -> str:
    """The figure as SVG text that follows light and dark; the same figure gives the same bytes."""
    _refuse_jet(figure)
    _plain_log_ticks(figure)
    drawn = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(
            drawn,
            format="svg",
            dpi=160,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = drawn.getvalue()
    return _themed(text[text.index("<svg") :])


def embedded(text: str) -> str:
    """A data URL of SVG text, at most `SVG_LIMIT` long; text that is no SVG is refused."""
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ReportError(
            f"the figure is no valid SVG ({error}); look for control characters in its labels"
        ) from error
    url = "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
    if len(url) > SVG_LIMIT:
        raise ReportError(
            f"the figure takes {len(url) / 1e6:.1f} MB of a page of 10 MB at most; "
            "draw dense marks with rasterized=True, or fewer pictures"
        )
    return url


def _themed(text: str) -> str:
    """Light colours become variables, the fonts those of the reader's system."""
    variables = {light: f"var(--{name.replace('+', '-')})" for name, (light, _) in THEME.items()}
    variables |= {_paler(light): variable for light, variable in variables.items()}
    # error bars of matplotlib, of seaborn
    variables["#000000"] = variables["#424242"] = "var(--ink)"
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: variables.get(found[0], found[0]), text)
    text = re.sub(r"'DejaVu Sans'(, sans-serif)?", FONTS, text)
    light, dark = (
        ";".join(f"--{n.replace('+', '-')}:{pair[i]}" for n, pair in THEME.items()) for i in (0, 1)
    )
    rules = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    head = text.index(">") + 1
    return text[:head] + rules + text[head:]


def _paler(color: str) -> str:
    """What seaborn makes of a fill colour unless it is told `saturation=1`: three quarters of the
    saturation.
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    return to_hex(colorsys.hls_to_rgb(hue, lightness, saturation * 0.75))


def _refuse_jet(figure: Figure) -> None:
    for drawn in figure.findobj(lambda artist: isinstance(artist, ScalarMappable)):
        if drawn.get_array() is not None and drawn.get_cmap().name.removesuffix("_r") in (
            "jet",
            "rainbow",
            "hsv",
        ):
            raise ReportError(
                f"colour map {drawn.get_cmap().name!r} shows edges that are not in the data; "
                f"use figures.HEAT ({HEAT!r})"
            )


def _plain_log_ticks(figure: Figure) -> None:
    """1,000 instead of the mathematical text that log axes write (mathematics is off, see RC)."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                axis.set_major_formatter(
                    FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 10 else f"{x:g}")
                )
                axis.set_minor_formatter(NullFormatter())


LABELS = {
    "real": "real images",
    "sd": "text-to-image samples",
    "cd": "class-conditional samples",
    "di": "inversion samples",
    "published": "the published images",
}


def label(name: str) -> str:
    """A training set in prose: `real images and text-to-image samples` for `real+sd`."""
    parts = [part.strip().rpartition("*") for part in str(name).split("+")]
    words = [LABELS.get(part, part) for *_, part in parts]
    shares = [f"{100 * float(share):g} % of the " if share else "" for share, *_ in parts]
    return " and ".join(map("".join, zip(shares, words, strict=True)))
