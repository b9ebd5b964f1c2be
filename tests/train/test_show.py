from itertools import islice

import jax
import numpy as np
import pytest
import tiny

from jtl.data.images import normalize, prepare
from jtl.data.inputs import pictures_of
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing
from jtl.train.parts import batches, training_step
from jtl.train.show import augmentation_text, label_text, phase_named, seen

MIXED = {'crop': 0.8, 'mixup': 0.4, 'cutmix': 1.0}


def test_the_step_loses_what_the_shown_pictures_and_labels_lose():
    """A step of training at rate 0, against the net on what is shown, with the labels and shares that are said."""
    e = tiny.experiment({'channels': (4,), 'dense': ()}, tune=tiny.recipe('probe'), augment=MIXED, accumulate=2, optimizer={'lr': 0.0})
    frozen, state = tiny.start(e)
    leaves, feed, losses = tiny.numpy(tiny.leaves_of(e)), list(islice(batches(e), 3)), [0.0]
    step = tiny.compile_fast(training_step(e), frozen, state, feed[0])
    for batch in feed:
        state = step(frozen, state, batch)
        losses.append(float(state.window.loss))
    found = []
    for shown in seen(e, 0, 1, steps=2, count=16):
        outputs = e.net.apply(leaves, {'image': (np.float32(shown.after) - 127.5) / 127.5})[0]['main']
        log_p = np.asarray(jax.nn.log_softmax(outputs))
        own, partner = (-log_p[np.arange(16), np.int32(labels)] for labels in (shown.labels, shown.partner_labels))
        found.append((shown.shares * own + (1 - shown.shares) * partner).mean())
    np.testing.assert_allclose(found, np.diff(losses)[1:], atol=2e-3)  # what is shown is rounded to whole pixels
    assert abs(found[0] - found[1]) > 0.02


def test_what_evaluation_sees_stands_beside_it():
    e = tiny.experiment(augment={'mixup': 0.4}, batch_size=8)
    (shown,) = seen(e, count=5)
    rows = np.asarray(next(batches(e))['index'])
    split = e.data.splits['train']
    plain = np.stack([prepare(split.examples[int(row)]['image'], e.preprocessing) for row in rows])
    np.testing.assert_array_equal(shown.before, plain[:5])
    np.testing.assert_array_equal(shown.partners, np.roll(plain, 1, axis=0)[:5])
    assert shown.labels == tuple(str(split.targets[row]) for row in rows[:5])
    assert shown.partner_labels == tuple(str(split.targets[row]) for row in np.roll(rows, 1)[:5])
    assert shown.title.startswith('phase full, step 0: 5 of the 8 pictures')


def test_without_augmentation_both_are_the_same():
    (shown,) = seen(tiny.experiment(batch_size=8), first_step=19, steps=3)  # of 20 steps the last
    np.testing.assert_array_equal(shown.after, shown.before)
    assert shown.shares is None and len(shown.labels) == 8 and 'step 19' in shown.title


@pytest.mark.parametrize(
    'preprocessing',
    [
        Preprocessing(size=(4, 4), mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channels='BGR'),
        Preprocessing(size=(4, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255),
        Preprocessing(size=(4, 4), mean=(127.5,), std=(127.5,), channels='L'),
    ],
)
def test_the_eye_sees_what_was_normalised(preprocessing):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, preprocessing.depth), np.uint8)
    np.testing.assert_array_equal(pictures_of(normalize(images, preprocessing), preprocessing), images)
    beyond = np.full((1, 4, 4, preprocessing.depth), 1e4, np.float32)
    assert pictures_of(beyond, preprocessing).min() == 255 and pictures_of(-beyond, preprocessing).max() == 0


def test_phases_by_name_and_number():
    e = tiny.experiment(tune=tiny.recipe('lp_ft'))
    assert [phase_named(e, name) for name in ('', 'probe', 'full', '0', '1')] == [0, 0, 1, 0, 1]
    with pytest.raises(UserError, match=r"^--phase: there is no phase 'fulll'; the run has probe, full\. Did you mean 'full'"):
        phase_named(e, 'fulll')
    with pytest.raises(UserError, match=r'^--step: the phase probe has the steps 0 to 5, found 6\.'):
        seen(e, 0, 6)


def test_words():
    assert label_text('classification', np.int32(1), ('cat', 'dog')) == 'dog'
    assert label_text('multi_label', np.array([1.0, 0.0, 1.0]), ('a', 'b', 'c')) == 'a, c'
    assert label_text('multi_label', np.zeros(3), ('a', 'b', 'c')) == 'none'
    assert label_text('regression', np.array([0.12345, -2.0]), ('x', 'y')) == '0.123, −2'
    assert label_text('regression', np.float32(0.5), ('value',)) == '0.5'
    section = tiny.experiment(augment={'mixup': 0.2, 'flip': True, 'crop': 0.5}).config['augment']
    assert augmentation_text(section) == 'augment: crop 0.5, flip, mixup 0.2'
    assert augmentation_text(tiny.experiment().config['augment']) == 'augment: nothing'
