"""Bundles: the same bytes for the same run, checked when loaded, enough to predict elsewhere."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jtl
from jtl.bundle import find_pictures, load_bundle, write_bundle
from jtl.errors import UserError
from jtl.train.record import golden


def experiment():
    config = jtl.default_config()
    config.model.update(channels=(4,), dense=(8,), image_size=8, batch_norm=True)
    config.data.update(name='digits', classes=('3', '7'))
    config.task.zero_init = False
    config.steps = 1
    return jtl.build(config)


def write(made, leaves, where, **more):
    write_bundle(
        where,
        net=made.net,
        leaves=leaves,
        labels=made.data.labels,
        preprocessing=made.preprocessing,
        config=made.config,
        metrics={'test/accuracy': 0.5},
        golden=golden(made),
        **more,
    )


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    made = experiment()
    leaves = jtl.load_leaves(made)
    where = tmp_path_factory.mktemp('bundle') / 'bundle'
    write(made, leaves, where)
    return made, leaves, where


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written[2], tmp_path / 'moved')
    return tmp_path / 'moved'


def test_predictions_elsewhere_are_those_of_the_net(written, copy):
    made, leaves, _ = written
    bundle = load_bundle(str(copy))
    pictures = [made.data.splits['test'].examples[k]['image'] for k in range(5)]
    said = bundle.predict(pictures, batch_size=3)
    inputs = {'image': np.stack(pictures).astype(np.float32) / 127.5 - 1}
    logits = np.asarray(made.net.apply(leaves, inputs)[0]['main'], np.float64)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [s['label'] for s in said] == ['37'[k] for k in odds.argmax(axis=1)]
    np.testing.assert_allclose([s['probability'] for s in said], odds.max(axis=1), atol=1e-5)


def test_same_bytes_again(written, tmp_path):
    made, leaves, where = written
    write(made, jax.tree.map(jax.numpy.copy, leaves), tmp_path / 'again')
    for name in ('model.safetensors', 'golden.safetensors', 'bundle.json'):
        assert (where / name).read_bytes() == (tmp_path / 'again' / name).read_bytes()


def test_a_changed_parameter_is_noticed(copy):
    leaves = load_file(copy / 'model.safetensors')
    leaves['heads/main/output/bias'] = leaves['heads/main/output/bias'] + np.float32(0.5)
    save_file(leaves, copy / 'model.safetensors')
    with pytest.raises(UserError, match='golden input gives other outputs'):
        load_bundle(str(copy))


@pytest.mark.parametrize('name', ['model.safetensors', 'golden.safetensors', 'bundle.json'])
def test_a_truncated_file_is_one_message(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=name.partition('.')[0]):
        load_bundle(str(copy))


def test_other_shapes_and_later_formats(copy):
    metadata = json.loads((copy / 'bundle.json').read_text())
    (copy / 'bundle.json').write_text(json.dumps(metadata | {'format': 99}))
    with pytest.raises(UserError, match='newer jtl'):
        load_bundle(str(copy))
    (copy / 'bundle.json').write_text(json.dumps(metadata | {'model': metadata['model'] | {'channels': [5]}}))
    with pytest.raises(UserError, match='conv_0'):
        load_bundle(str(copy))


def test_replaces_an_older_bundle_whole(written, tmp_path):
    made, leaves, _ = written
    where = tmp_path / 'bundle'
    where.mkdir()
    (where / 'stale').write_text('old')
    write(made, leaves, where)
    assert sorted(p.name for p in where.iterdir()) == ['bundle.json', 'golden.safetensors', 'model.safetensors']
    assert [p.name for p in tmp_path.iterdir()] == ['bundle']


def test_several_values_that_have_no_names(tmp_path):
    """Neither labels nor the task's section say how many there are."""
    rng = np.random.default_rng(0)
    pictures, values = rng.integers(0, 256, (20, 8, 8, 1), np.uint8), rng.normal(size=(20, 2)).astype(np.float32)
    config = jtl.default_config()
    config.model.update(channels=(2,), dense=(), image_size=8)
    config.task.name, config.steps = 'regression', 1
    made = jtl.build(config, data=jtl.from_arrays({'train': pictures}, {'train': values}))
    leaves = {path: jax.numpy.asarray(rng.normal(size=spec.shape), spec.dtype) for path, spec in made.net.shapes.items()}
    write(made, leaves, tmp_path / 'bundle', target_shape=(2,))
    (said,) = load_bundle(str(tmp_path / 'bundle')).predict([pictures[0]])
    inputs = {'image': pictures[:1].astype(np.float32) / 127.5 - 1}
    np.testing.assert_allclose(list(said['value'].values()), made.net.apply(leaves, inputs)[0]['main'][0], atol=1e-4)


def test_find_pictures(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'notes.txt'):
        (tmp_path / name).touch()
    assert [p.name for p in find_pictures([str(tmp_path), str(tmp_path / 'notes.txt')])] == ['a.PNG', 'b.jpg', 'notes.txt']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no pictures'):
        find_pictures([str(tmp_path / 'empty')])
