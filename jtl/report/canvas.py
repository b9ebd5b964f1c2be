"""The ground all pictures share: one style, one palette, and the way from a matplotlib figure to a small data URI.

Everything is drawn with matplotlib's object-oriented API, nothing touches pyplot's global state, and the same input gives the same bytes.
"""

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The colours of Okabe and Ito, told apart with any colour vision (the yellow darkened for lines on white).
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW = '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#b8a800'
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
INK, SOFT, FAINT = '#1b1f24', '#5b6570', '#dde2e7'
LIMIT = 150_000  # characters of a data URI

_STYLE: Any = {
    'font.family': ['sans-serif'],
    'font.sans-serif': ['DejaVu Sans'],  # comes with matplotlib; a browser without it takes its own
    'font.size': 9,
    'axes.edgecolor': SOFT,
    'axes.labelcolor': SOFT,
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': FAINT,
    'grid.linewidth': 0.6,
    'text.color': INK,
    'xtick.color': SOFT,
    'ytick.color': SOFT,
    'legend.frameon': False,
    'legend.fontsize': 8,
    'svg.hashsalt': 'jtl',  # element ids that do not change from run to run
    'svg.fonttype': 'none',  # text stays text: small files, and the reader's fonts for every script
}


class Picture:
    """A figure being drawn, and its data URI once the `with` block of `picture` has ended."""

    def __init__(self, figure: Any) -> None:
        self.figure, self.uri = figure, ''


@contextmanager
def picture(width: float, height: float) -> Iterator[Picture]:
    """A matplotlib figure of `width` x `height` inches in the house style; `.uri` is set on leaving."""
    with _style() as figure:
        drawn = Picture(figure(figsize=(width, height), layout='constrained'))
        yield drawn
        drawn.uri = _uri(drawn.figure)


class Sheet:
    """A figure being drawn, and the bytes of its PNG file once the `with` block of `sheet` has ended."""

    def __init__(self, figure: Any) -> None:
        self.figure, self.png = figure, b''


@contextmanager
def sheet(width: float, height: float, dpi: int = 160) -> Iterator[Sheet]:
    """A matplotlib figure of `width` x `height` inches in the house style whose parts are placed by hand; `.png` is set on leaving."""
    with _style() as figure:
        drawn = Sheet(figure(figsize=(width, height)))
        yield drawn
        buffer = io.BytesIO()
        drawn.figure.savefig(buffer, format='png', dpi=dpi, facecolor='white', metadata={'Software': None})
        drawn.png = buffer.getvalue()


@contextmanager
def _style() -> Iterator[Any]:
    """The house style; gives matplotlib's `Figure`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from')  # a browser has a font for it
        yield Figure


def _uri(figure: Any) -> str:
    """An SVG as a data URI, or a PNG where the SVG would be large."""
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    svg = re.sub(r'<\?xml.*?\?>\s*<!DOCTYPE.*?>\s*', '', buffer.getvalue(), count=1, flags=re.DOTALL)
    svg = re.sub(r'<!--.*?-->', '', svg, flags=re.DOTALL)
    svg = re.sub(r'>\s+<', '><', svg)
    uri = 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()
    for dpi in (144, 100, 72):
        if len(uri) <= LIMIT:
            break
        png = io.BytesIO()
        figure.savefig(png, format='png', dpi=dpi, facecolor='white')
        uri = 'data:image/png;base64,' + base64.b64encode(png.getvalue()).decode()
    return uri


def literal(text: str) -> str:
    """A name as it is: matplotlib reads dollar signs as mathematics."""
    return text.replace('$', r'\$')


def short(text: str, limit: int) -> str:
    """At most `limit` letters of a name, to be drawn as it is."""
    return literal(text if len(text) <= limit else text[: limit - 1] + '…')
