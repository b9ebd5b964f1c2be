import io

import numpy as np
import pytest
from PIL import Image

from jtl.report.contact import COLUMNS, Shown, contact_sheet


def flat(colours, height=20, width=30, channels=3):
    return np.broadcast_to(np.array(colours, np.uint8).reshape(-1, 1, 1, channels), (len(colours), height, width, channels))


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def boxes(sheet, colour):
    """Left, top, right and bottom of everything in a colour."""
    ys, xs = np.nonzero((sheet == np.array(colour)).all(axis=2))
    return xs.min(), ys.min(), xs.max(), ys.max()


def test_pairs_stand_above_each_other_in_the_order_of_the_batch():
    before = [(200, 0, 10 * k) for k in range(9)]
    after = [(0, 200, 10 * k) for k in range(9)]
    shown = Shown('step 0', flat(before), flat(after), [f'class {k}' for k in range(9)])
    sheet = read(contact_sheet('a config', ('augment: flip', 'more'), [shown]))
    places = [(boxes(sheet, before[k]), boxes(sheet, after[k])) for k in range(9)]
    for above, below in places:
        assert above[0] == below[0] and above[2] == below[2] and above[3] < below[1]
        wide, high = above[2] - above[0], above[3] - above[1]
        assert wide / high == pytest.approx(1.5, abs=0.05)  # pictures keep their shape
    lefts = [above[0] for above, _ in places]
    assert lefts == sorted(lefts[:COLUMNS]) + lefts[:1]  # the second row begins again
    assert places[COLUMNS][0][1] > places[0][1][3]


def test_a_mixed_picture_has_its_partner_in_the_corner():
    own, partner, mixed = (250, 10, 10), (10, 10, 250), (10, 250, 10)
    shown = Shown('step 0', flat([own]), flat([mixed]), ['cat'], np.array([0.25]), flat([partner]), ['dog'])
    sheet = read(contact_sheet('$x^2$', (), [shown]))
    whole, corner, below = boxes(sheet, own), boxes(sheet, partner), boxes(sheet, mixed)
    assert whole[0] < corner[0] < corner[2] <= whole[2] + 1 and whole[1] < corner[1] < corner[3] <= whole[3] + 1
    assert below[1] > corner[3]


def test_grey_pictures_and_several_batches():
    shown = [Shown(f'step {k}', flat([90], channels=1), flat([160 + k], channels=1), ['a' * 100]) for k in range(2)]
    png = contact_sheet('grey', ('one', 'two', 'three'), shown)
    sheet = read(png)
    assert boxes(sheet, (160,) * 3)[3] < boxes(sheet, (161,) * 3)[1]
    assert contact_sheet('grey', ('one', 'two', 'three'), shown) == png  # the same bytes
