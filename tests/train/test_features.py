"""Features of whole splits: what is computed, and what the cache takes for the same."""

import re
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import save
from tiny import experiment, leaves_of

from jtl.data.arrays import from_arrays
from jtl.errors import UserError
from jtl.models.base import Backbone, Stage, with_stages
from jtl.models.net import make_net
from jtl.models.preprocessing import Preprocessing
from jtl.parallel.mesh import make_mesh
from jtl.parallel.placement import place
from jtl.tasks import build_task
from jtl.train import features as module
from jtl.train.features import FeatureModel, features, of_experiment

PICTURES = np.random.default_rng(3).integers(0, 256, (21, 8, 8, 1), np.uint8)


def data(pictures=PICTURES, targets=None):
    images = {'train': pictures, 'test': pictures[:5] // 2}
    classes = np.arange(len(pictures)) % 3 if targets is None else targets
    return from_arrays(images, {'train': classes, 'test': classes[:5]}, ('a', 'b', 'c'))


@pytest.fixture(scope='module')
def model():
    e = experiment(batch_size=16)
    return of_experiment(e, leaves_of(e))


def by_hand(model, pictures, stop=None):
    """The map or `pooled` after a stage, of all pictures in one batch, without the code under test."""
    x = (pictures.astype(np.float32) - 127.5) / 127.5
    tree = {}
    for path, leaf in model.leaves.items():
        _, stage, *rest = path.split('/')
        if path.startswith('backbone/'):
            tree.setdefault(stage, {}).setdefault(rest[0], {})[rest[1]] = leaf
    return model.net.backbone.apply({'params': tree}, {'image': x}, stop=stop)


@pytest.mark.parametrize(('stage', 'stop'), [('', None), ('dense_0', None), ('pooling', None), ('conv_1', 'dense_0'), ('conv_0', 'conv_1')])
def test_every_example_once_cut_at_any_stage(model, stage, stop):
    found = features(replace(model, stage=stage), data().splits, say=lambda line: None)
    assert {name: len(x) for name, x in found.items()} == {'train': 21, 'test': 5}  # batches of 16: one is not full
    for name, pictures in (('train', PICTURES), ('test', PICTURES[:5] // 2)):
        want = by_hand(model, pictures, stop)
        want = want['pooled'] if stop is None else np.asarray(want['map']).mean(axis=(1, 2))
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5)


class Embed(nn.Module):
    @nn.compact
    def __call__(self, features, mode):
        x = features['image']
        return {'tokens': nn.Dense(6)(x.reshape(x.shape[0], 8, -1))}


class Mix(nn.Module):
    @nn.compact
    def __call__(self, features, mode):
        return {'tokens': features['tokens'] + nn.Dense(6)(features['tokens'])}


class Norm(nn.Module):
    @nn.compact
    def __call__(self, features, mode):
        return {'tokens': nn.LayerNorm()(features['tokens'])}


class First(nn.Module):
    def __call__(self, features, mode):
        return {'pooled': features['tokens'][:, 0]}


def test_tokens_of_a_block_in_the_middle_pass_through_the_tail():
    task = build_task({'name': 'classification'}, ('a', 'b', 'c'), ())
    stages = (Stage('embed', Embed), Stage('block', Mix), Stage('norm', Norm, tail=True), Stage('first', First, tail=True))
    backbone = with_stages(Backbone(stages=stages), task.stages)
    net = make_net(backbone, {'main': task.head}, {'image': jax.ShapeDtypeStruct((8, 8, 1), np.float32)})
    rng = np.random.default_rng(0)
    leaves = {path: jax.device_put(rng.normal(size=spec.shape).astype(np.float32)) for path, spec in net.shapes.items()}
    grey = Preprocessing(size=(8, 8), mean=(127.5,), std=(127.5,), channels='L')
    whole, _ = place(make_mesh({'data': -1}), {path: leaf.shape for path, leaf in leaves.items()})
    model = FeatureModel(net, leaves, task, grey, whole, batch_size=8)
    found = features(replace(model, stage='embed'), data().splits, say=lambda line: None)['train']
    tokens = np.asarray(by_hand(model, PICTURES, 'block')['tokens'])[:, 0]
    normal = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-6)
    want = normal * leaves['backbone/norm/LayerNorm_0/scale'] + leaves['backbone/norm/LayerNorm_0/bias']
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"has no stage 'blok'. Did you mean 'block'"):
        replace(model, stage='blok')


def with_leaf(path):
    return lambda m: replace(m, leaves={**m.leaves, path: m.leaves[path] + 1e-3})


def prepared(**fields):
    return lambda m: replace(m, preprocessing=replace(m.preprocessing, **fields))


def pooled_by_maximum(model):
    task = build_task({'name': 'classification', 'pool': 'max'}, ('a', 'b', 'c'), ())
    backbone = Backbone(stages=(*model.net.backbone.stages[:-1], *task.stages))
    return replace(model, stage='conv_1', task=task, net=replace(model.net, backbone=backbone))


def in_bfloat16(model):
    return replace(model, net=experiment(model={'dtype': 'bfloat16'}).net)


def one_bit(pictures=PICTURES):
    changed = pictures.copy()
    changed[20, 7, 7, 0] ^= 1
    return changed


def as_it_is(model):
    return model


SAME = {
    'all': (as_it_is, {}),
    'targets': (as_it_is, {'targets': np.arange(21) // 7}),
    'head': (with_leaf('heads/main/output/kernel'), {}),
    'batches': (lambda m: replace(m, batch_size=5), {}),
}
OTHER = {
    'parameter': (with_leaf('backbone/conv_1/conv/kernel'), {}),
    'bit of a picture': (as_it_is, {'pictures': one_bit()}),
    'order': (as_it_is, {'pictures': PICTURES[::-1]}),
    'fewer': (as_it_is, {'pictures': PICTURES[:20]}),
    'stage': (lambda m: replace(m, stage='conv_1'), {}),
    'pooling': (pooled_by_maximum, {}),
    'mean': (prepared(mean=(127.0,)), {}),
    'interpolation': (prepared(interpolation='bicubic'), {}),
    'dtype': (in_bfloat16, {}),
}


@pytest.mark.parametrize('what', [*SAME, *OTHER])
def test_kept_features_are_read_for_the_same_and_for_nothing_else(model, what, tmp_path, monkeypatch):
    computed = []

    def compute(run, leaves, model, split):
        computed.append(np.full((len(split), 2), len(computed), np.float32))
        return computed[-1]

    monkeypatch.setattr(module, '_compute', compute)
    alter, arguments = (SAME | OTHER)[what]

    def train(model, source):
        return features(model, {'train': source.splits['train']}, tmp_path, lambda line: None)['train']

    one, two = train(model, data()), train(alter(model), data(**arguments))
    assert len(computed) == (1 if what in SAME else 2)
    np.testing.assert_array_equal(two, one if what in SAME else one[: len(two)] + 1)
    assert len(list(tmp_path.iterdir())) == len(computed)
    if what == 'stage':  # what lies above the cut does not count
        train(with_leaf('backbone/dense_0/dense/kernel')(alter(model)), data())
        assert len(computed) == 2


@pytest.mark.parametrize(
    ('damage', 'why'),
    [
        (lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], 'its content does not fit its checksum'),
        (lambda raw: raw[:-40], 'SafetensorError'),
        (lambda raw: b'', 'SafetensorError'),
        (lambda raw: save({'features': np.zeros((21, 2), np.float32)}), "KeyError: '__metadata__'"),
        (lambda raw: save({'other': np.zeros((21, 2), np.float32)}), "KeyError: 'features'"),
    ],
)
def test_damage_is_said_and_mended(model, damage, why, tmp_path, monkeypatch):
    right = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32)
    monkeypatch.setattr(module, '_compute', lambda *args: right)
    said = []
    for change in (None, damage, None):
        for path in tmp_path.iterdir() if change else ():
            path.write_bytes(change(path.read_bytes()))
        np.testing.assert_array_equal(features(model, {'train': data().splits['train']}, tmp_path, said.append)['train'], right)
    (path,) = tmp_path.iterdir()  # nothing half written beside it
    first, damaged, again, last = said
    assert re.fullmatch(rf'Features of train: 21 x 2, computed in .* s, kept in {path}\.', first) and 'computed' in again
    assert damaged.startswith(f'{path}: these kept features are damaged ({why}') and damaged.endswith('; they are computed anew.')
    assert last == f'Features of train: 21 x 2, read from {path}.'


def test_a_place_that_cannot_be_written_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_compute', lambda *args: np.zeros((21, 2), np.float32))
    (tmp_path / 'file').touch()
    said = []
    assert features(model, {'train': data().splits['train']}, tmp_path / 'file', said.append)['train'].shape == (21, 2)
    assert re.search(r', but not kept: .*/file/train-.* cannot be written \((File exists|Not a directory)\)\.$', said[0])


def test_what_cannot_be_pooled(model):
    task = replace(model.task, stages=())
    bare = replace(model.net, backbone=Backbone(stages=model.net.backbone.stages[:-1]))
    with pytest.raises(UserError, match=r'Features are \(examples, width\), but the backbone gives map here'):
        features(replace(model, stage='conv_0', task=task, net=bare), data().splits, say=lambda line: None)
