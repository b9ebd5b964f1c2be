"""Eight devices and one: the same losses, and what the compiled step sends between devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope='module')
def found():
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
    script = Path(__file__).with_name('on_devices.py')
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', ['last, accumulated', 'full', 'mixed'])
def test_eight_devices_lose_what_one_loses(found, name):
    """With BatchNorm, flips and dropout on, and gradients clipped; in the second column their norms."""
    one, eight = (np.array(rows) for rows in found['losses'][name])
    assert one.shape == eight.shape == (20, 2) and np.isfinite(one).all()
    np.testing.assert_allclose(eight, one, atol=1e-5)
    assert np.ptp(one[:, 0]) > 0.1  # there was something to differ in


def test_eight_devices_lose_what_one_loses_on_texts(found):
    """In batches of two widths, with dropout."""
    (one, widths), (eight, others) = found['texts']
    assert widths == others and set(widths) == {7, 12}
    one, eight = np.array(one), np.array(eight)
    assert one.shape == eight.shape == (6, 2) and np.isfinite(one).all() and np.ptp(one[:, 0]) > 0.1
    np.testing.assert_allclose(eight, one, atol=1e-5)


@pytest.mark.parametrize(('name', 'gradients'), [('probe', 51), ('last, accumulated', 51 + 528)])
def test_only_trainable_gradients_and_the_loss_are_reduced(found, name, gradients):
    sent = found['collectives'][name]
    assert sent['gradients'] == 4 * gradients and sent['statistics'] == 0
    assert {kind for kind, _ in sent['found']} == {'all-reduce'} and len(sent['found']) == sent['mentioned']
    assert sum(size for _, size in sent['found']) == sent['gradients'] + 4


def test_mixing_sends_a_row_between_neighbours(found):
    """One picture and its label from each device to the next, not the batch."""
    sent = found['collectives']['mixed']
    assert {kind for kind, _ in sent['found']} == {'all-reduce', 'collective-permute'} and len(sent['found']) == sent['mentioned']
    assert sum(size for kind, size in sent['found'] if kind == 'all-reduce') == sent['gradients'] + 4
    assert sum(size for kind, size in sent['found'] if kind == 'collective-permute') == 4 * (8 * 8 + 1)


def test_batch_statistics_of_a_frozen_stage_are_reduced_forward_alone(found):
    sent = found['collectives']['probe, batch statistics']
    assert sent['statistics'] == 4 * 2 * 8
    assert {kind for kind, _ in sent['found']} == {'all-reduce'} and len(sent['found']) == sent['mentioned']
    assert sum(size for _, size in sent['found']) == sent['gradients'] + sent['statistics'] + 4


def test_full_training_reduces_batch_statistics_once_each_way(found):
    sent = found['collectives']['full']
    assert sent['statistics'] == 4 * 2 * (4 + 8)
    assert {kind for kind, _ in sent['found']} == {'all-reduce'} and len(sent['found']) == sent['mentioned']
    beside = sum(size for _, size in sent['found']) - sent['gradients'] - 4
    assert sent['statistics'] <= beside <= 2 * sent['statistics']


def test_recalibrated_statistics_are_those_of_the_whole_batch(found):
    one, eight = found['recalibrated']
    assert len(one) == len(eight) == 4
    for path, (anew, before) in one.items():
        np.testing.assert_allclose(eight[path][0], anew, rtol=1e-5, atol=1e-6)
        assert np.abs(np.subtract(anew, before)).min() > 1e-4, path


def test_meshes_of_eight_devices(found):
    mesh = found['mesh']
    assert mesh['shape'] == [1, 4, 1, 2] and mesh['all'] == [1, 8, 1, 1]
    assert mesh['rows'] == list(range(32))  # of one process: the whole batch
    assert mesh['shards'] == [[0, 0], [4, 8], [8, 16], [12, 24]]  # first row of each shard, and its first value
    assert mesh['leaf']
