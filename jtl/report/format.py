"""How figures are written for people: one place, so that tables, plots and sentences agree."""

import math
from typing import Any

# Metrics in [0, 1] that people read as percentages; whatever else is a number in its own unit.
_SHARES = frozenset(('accuracy', 'precision', 'recall', 'f1', 'ece', 'auc', 'match'))
_IN_UNITS = frozenset(('loss', 'nll', 'mse', 'rmse', 'mae', 'r2'))


def is_share(metric: str) -> bool:
    """Whether a metric such as 'accuracy' or 'test/macro_f1' is a share of 1, to be shown in percent; 'test/rmse/<output>' is not."""
    parts = metric.split('/')[:2]
    return _IN_UNITS.isdisjoint(parts) and any(not _SHARES.isdisjoint(part.split('_')) for part in parts)


def number(metric: str, value: float | None) -> str:
    """A metric's value: '83.3 %' for a share of 1, else four significant digits; '–' for None and NaN."""
    if value is None or math.isnan(value):
        return '–'
    return f'{100 * value:.1f} %' if is_share(metric) else significant(value)


def difference(metric: str, value: float, *, sign: bool = True, unit: bool = True) -> str:
    """A difference of two values of a metric: '+5.2 points' for shares of 1, else '+0.123'."""
    plus = '+' if sign else ''
    if not is_share(metric):
        return minus(f'{value:{plus}.4g}')
    return minus(f'{100 * value:{plus}.1f}') + (' points' if unit else '')


def significant(value: Any, digits: int = 4) -> str:
    """Whole numbers with thin groups ('3,068'), others with `digits` significant digits ('0.0005', '1.2e-07')."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return minus(f'{int(value):,}')
    return minus(f'{value:.{digits}g}')


def count(n: float) -> str:
    """A number of parameters or examples, short: '950', '12.3 k', '3.37 M', '1.2 G'."""
    for size, unit in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if abs(n) >= 0.9995 * size:  # what rounds to 1,000 k is 1 M
            return f'{n / size:.3g}{unit}'
    return f'{n:.0f}'


def size(n: float) -> str:
    """Bytes, short: '512 B', '13.5 MB'; units of 1000."""
    return count(n).replace(' G', ' GB').replace(' M', ' MB').replace(' k', ' kB') + ('' if abs(n) >= 1e3 else ' B')


def duration(seconds: float) -> str:
    """'0.8 s', '42 s', '3:05', '2:03:05'."""
    if seconds < 9.95:
        return f'{seconds:.1f} s'
    if seconds < 59.5:
        return f'{seconds:.0f} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


def rate(value: float) -> str:
    """A learning rate: '5e-4', '0.01', '2.5e-3'."""
    if value == 0:
        return '0'
    if abs(value) >= 0.01:
        return f'{value:.3g}'
    mantissa, _, exponent = f'{value:.2e}'.partition('e')
    return f'{mantissa.rstrip("0").rstrip(".")}e{int(exponent)}'


def plural(n: int, noun: str) -> str:
    """'1 seed', '5 seeds'."""
    return f'{n:,} {noun}' + ('' if n == 1 else 's')


def minus(text: str) -> str:
    """A true minus sign, as wide as the plus."""
    return text.replace('-', '−', 1) if text.startswith('-') else text
