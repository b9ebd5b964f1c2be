import math

import pytest

from jtl.report.format import count, difference, duration, is_share, number, rate, significant, size


@pytest.mark.parametrize(
    ('metric', 'share'),
    [
        ('accuracy', True),
        ('test/macro_f1', True),
        ('top5_accuracy', True),
        ('ece', True),
        ('mean_average_precision', True),
        ('exact_match', True),
        ('loss', False),
        ('test/rmse', False),
        ('r2', False),
        ('test/rmse/accuracy', False),  # an output that happens to be called so
        ('rmse/f1', False),
        ('seconds', False),
    ],
)
def test_which_metrics_are_percentages(metric, share):
    assert is_share(metric) == share


@pytest.mark.parametrize(
    ('shown', 'text'),
    [
        (number('accuracy', 0.83349), '83.3 %'),
        (number('loss', 0.123456), '0.1235'),
        (number('loss', math.nan), '–'),
        (number('loss', None), '–'),
        (difference('accuracy', -0.0519), '−5.2 points'),
        (difference('rmse', 0.25), '+0.25'),
        (significant(3068), '3,068'),
        (significant(1.2e-7), '1.2e-07'),
        (significant(True), 'True'),
        (significant('adamw'), 'adamw'),
        (count(950), '950'),
        (count(3_374_000), '3.37 M'),
        (count(999_999), '1 M'),
        (size(512), '512 B'),
        (size(13_500_000), '13.5 MB'),
        (duration(0.84), '0.8 s'),
        (duration(59.7), '1:00'),
        (duration(185), '3:05'),
        (duration(7385), '2:03:05'),
        (rate(5e-4), '5e-4'),
        (rate(2.5e-3), '2.5e-3'),
        (rate(0.01), '0.01'),
        (rate(0.0), '0'),
    ],
)
def test_figures_for_people(shown, text):
    assert shown == text
