"""The BiT-HyperRule against the numbers of the paper and of its published schedule."""

import pytest

from jtl.errors import UserError
from jtl.hyper_rules import bit_hyper_rule
from jtl.schedules import make_schedule


@pytest.mark.parametrize(
    ('examples', 'side', 'steps', 'falls', 'sizes', 'mixup'),
    [
        (1_000, 224, 500, (200, 300, 400), (512, 480), 0.0),
        (19_999, 95, 500, (200, 300, 400), (160, 128), 0.0),
        (20_000, 32, 10_000, (3_000, 6_000, 9_000), (160, 128), 0.1),
        (499_999, 96, 10_000, (3_000, 6_000, 9_000), (512, 480), 0.1),
        (1_281_167, 500, 20_000, (6_000, 12_000, 18_000), (512, 480), 0.1),
    ],
)
def test_the_rule(examples, side, steps, falls, sizes, mixup):
    rule = bit_hyper_rule(examples, side)
    assert (rule.steps, (rule.resize, rule.crop), rule.mixup) == (steps, sizes, mixup)
    schedule = make_schedule(name='step', lr=0.003, steps=rule.steps, warmup=rule.warmup, milestones=rule.milestones, factor=0.1)
    assert float(schedule(rule.warmup - 1)) < 0.003
    for k, step in enumerate((rule.warmup, *falls)):
        assert float(schedule(step)) == pytest.approx(0.003 * 0.1**k)
        if k:
            assert float(schedule(step - 1)) == pytest.approx(0.003 * 0.1 ** (k - 1))


@pytest.mark.parametrize(('examples', 'side'), [(0, 32), (10, 0)])
def test_nothing_to_choose_from(examples, side):
    with pytest.raises(UserError, match='at least 1'):
        bit_hyper_rule(examples, side)
