"""Topologies by name; compiling for them is in test_ahead.py, with the mark `aot`."""

import pytest

from jtl.errors import UserError
from jtl.parallel.chips import CHIPS, parse_topology


@pytest.mark.parametrize(
    ('text', 'found'),
    [('v5e:16x16', ('v5e', (16, 16))), ('v5p:4x4x8', ('v5p', (4, 4, 8))), ('v4:2x2x1', ('v4', (2, 2, 1))), ('v6e:2x4', ('v6e', (2, 4)))],
)
def test_a_slice(text, found):
    assert parse_topology(text) == found


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('v9:4x4', "chips are v4, v5e, v5p, v6e, found 'v9'"),
        ('v5e', 'a chip and the shape of a slice'),
        ('v5e:16', 'a chip and the shape of a slice'),
        ('v5e:4x4x4', 'a slice of v5e has 2 dimensions, found 4x4x4'),
        ('v5p:4x4', 'a slice of v5p has 3 dimensions'),
    ],
)
def test_what_is_no_slice(text, says):
    with pytest.raises(UserError, match=says):
        parse_topology(text)


def test_peaks_are_in_proportion():
    """A chip computes some hundred operations for each byte that it can move, and moves more to its memory than to its neighbours."""
    for chip in CHIPS.values():
        assert 100 < chip.flops / chip.memory_rate < 700 and chip.memory_rate > chip.network_rate and chip.memory >= 16 * 2**30
        assert chip.source.startswith('docs.cloud.google.com')
