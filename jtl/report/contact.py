"""The contact sheet of `jtl show`: what a training step sees of each picture, below what evaluation sees of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np

from jtl.report.canvas import FAINT, INK, SOFT, literal, sheet, short

COLUMNS = 8
_TINY = 64  # pictures up to this side are shown with their pixels
# Inches:
_CELL, _GAP, _EDGE = 1.4, 0.1, 0.3  # a picture's width, between pictures, around everything
_NAMES = 0.85  # the names of rows, left of them
_HEAD, _WORDS, _TITLE, _LINE = 0.28, 0.17, 0.42, 0.15  # the sheet's title, a line below it, a batch's title, a line of a caption
_INSET = 0.42  # of a picture's side: its partner's, in its corner


@dataclass(frozen=True)
class Shown:
    """Some examples of a training batch, in its order.

    Attributes:
      title: which batch it is.
      before: (N, H, W, C) uint8, RGB or grey: the pictures as evaluation sees them.
      after: (N, H, W, C) the same as the step sees them.
      labels: of the examples, for a person.
      shares: (N,) of each example in its own picture; None where nothing is mixed.
      partners: (N, H, W, C) the pictures that are mixed in, as evaluation sees them; None likewise.
      partner_labels: theirs.
    """

    title: str
    before: np.ndarray
    after: np.ndarray
    labels: Sequence[str]
    shares: np.ndarray | None = None
    partners: np.ndarray | None = None
    partner_labels: Sequence[str] = ()


def contact_sheet(title: str, lines: Sequence[str], batches: Sequence[Shown]) -> bytes:
    """A PNG: for every batch rows of pairs, above the picture as evaluation sees it, below as the step does, its label under it.

    Args:
      title: of the sheet.
      lines: what is done to the pictures, and other words; long ones are wrapped.
      batches: each with at least one picture; all pictures of one size.
    """
    columns = min(COLUMNS, max(len(shown.labels) for shown in batches))
    tall = _CELL * batches[0].before.shape[1] / batches[0].before.shape[2]
    captions = 1 + any(shown.shares is not None for shown in batches)
    block = 2 * tall + 2 * _GAP + captions * _LINE + 0.16
    rows = [-(-len(shown.labels) // columns) for shown in batches]
    width = max(2 * _EDGE + _NAMES + columns * (_CELL + _GAP) - _GAP, 6.5)
    words = [part for line in lines for part in wrap(line, int(16 * (width - 2 * _EDGE)))]  # 16 letters to the inch
    head = _HEAD + _WORDS * len(words)
    height = 2 * _EDGE + head + sum(_TITLE + n * block for n in rows) - 0.1
    with sheet(width, height) as drawn:
        paper = _Paper(drawn.figure, width, height)
        paper.text(_EDGE, _EDGE, title, size=13, weight='bold')
        for k, line in enumerate(words):
            paper.text(_EDGE, _EDGE + _HEAD + _WORDS * k, line, size=8.5, color=SOFT)
        top = _EDGE + head
        for shown, n in zip(batches, rows, strict=True):
            paper.rule(_EDGE, top + 0.12, width - _EDGE)
            paper.text(_EDGE, top + 0.18, shown.title, size=8.5, color=SOFT)
            for row in range(n):
                y = top + _TITLE + row * block
                paper.text(_EDGE, y + tall / 2, 'in evaluation', size=8, color=SOFT, va='center')
                paper.text(_EDGE, y + tall + _GAP + tall / 2, 'in this step', size=8, color=INK, va='center')
                for k in range(row * columns, min((row + 1) * columns, len(shown.labels))):
                    x = _EDGE + _NAMES + (k % columns) * (_CELL + _GAP)
                    _pair(paper, shown, k, x, y, tall)
            top += _TITLE + n * block
    return drawn.png


def _pair(paper: '_Paper', shown: Shown, k: int, x: float, y: float, tall: float) -> None:
    """Picture `k` before and after, and its caption."""
    paper.picture(shown.before[k], x, y, _CELL, tall)
    paper.picture(shown.after[k], x, y + tall + _GAP, _CELL, tall)
    caption = [shown.labels[k]]
    if shown.shares is not None and shown.partners is not None:
        wide, high = _INSET * _CELL, _INSET * tall
        paper.picture(shown.partners[k], x + _CELL - wide, y + tall - high, wide, high, frame=True)
        own = round(100 * float(shown.shares[k]))
        caption = [f'{short(shown.labels[k], 14)}: {own} %', f'{short(shown.partner_labels[k], 14)}: {100 - own} %']
    for line, text in enumerate(caption):
        paper.text(
            x + _CELL / 2, y + 2 * tall + _GAP + 0.05 + line * _LINE, short(text, 22), size=7.5, ha='center', color=SOFT if line else INK
        )


@dataclass(frozen=True)
class _Paper:
    """A figure on which things are placed in inches from its upper left corner."""

    figure: Any
    width: float
    height: float

    def text(
        self, x: float, y: float, words: str, *, size: float, color: str = INK, ha: str = 'left', va: str = 'top', **more: Any
    ) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, literal(words), fontsize=size, color=color, ha=ha, va=va, **more)

    def rule(self, left: float, y: float, right: float) -> None:
        from matplotlib.lines import Line2D

        ends = [left / self.width, right / self.width]
        self.figure.add_artist(Line2D(ends, [1 - y / self.height] * 2, color=FAINT, linewidth=0.8))

    def picture(self, pixels: np.ndarray, x: float, y: float, wide: float, high: float, *, frame: bool = False) -> None:
        axes = self.figure.add_axes((x / self.width, 1 - (y + high) / self.height, wide / self.width, high / self.height))
        grey = pixels.shape[-1] != 3  # of channels that are no colours the first is shown
        axes.imshow(
            pixels[..., 0] if grey else pixels,
            cmap='gray' if grey else None,
            vmin=0,
            vmax=255,
            aspect='auto',
            interpolation='nearest' if max(pixels.shape[:2]) <= _TINY else 'antialiased',
        )
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set(visible=True, color='white' if frame else FAINT, linewidth=2.0 if frame else 0.6)
