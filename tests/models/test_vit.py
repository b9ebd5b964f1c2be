"""Vision transformers against logits that the original implementations gave (golden/make_vit*.py), and facts of their papers."""

from dataclasses import replace
from pathlib import Path

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.data.base import Data, Split
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import Mode, depths, init_shapes
from jtl.models.vit import Block, Mlp, sincos2d, vit, vit_s16
from jtl.models.vit_names import TIMM
from jtl.tasks.base import HEAD

GOLDEN = Path(__file__).parent / 'golden'
SIZE = (8, 12)
TINY = {'width': 8, 'depth': 2, 'heads': 2, 'mlp': 12, 'pretrained_patch': 4}
# With a head of 1000: torchvision's meta data, timm's results table (its Ti and S). DINOv2 without head or mask token: timm's table.
SIZES = {
    'vit_ti16': 5_717_416,
    'vit_s16': 22_050_664,
    'vit_s32': 22_878_952,
    'vit_b16': 86_567_656,
    'vit_b32': 88_224_232,
    'vit_l16': 304_326_632,
    'dinov2_s14': 22.06,
    'dinov2_b14': 86.58,
    'dinov2_l14': 304.37,
    'dinov2_g14': 1136.48,
    'dinov2_s14_reg': 22.06,
}


def _experiment(file, size, **options):
    """A run that starts from a golden file, with its head."""
    fields = jtl.default_config()
    with fields.unlocked(), fields.ignore_type():
        fields.model.update({**TINY, 'image_size': size, 'pretrained_image_size': size, **options})
    fields.init_from, fields.init_head, fields.steps = str(GOLDEN / file), 'keep', 1
    split = Split([{'image': np.zeros((*size, 3), np.uint8), 'label': 0}] * 2, np.zeros(2, np.int32), str)
    return jtl.build(fields, data=Data({'train': split}, ('a', 'b', 'c')))


@pytest.mark.parametrize(
    ('source', 'file', 'size', 'options'),
    [
        ('flax', 'vit_flax.msgpack', (12, 12), {'name': 'vit_s16', 'epsilon': 1e-12}),
        ('vision_transformer', 'vit_vision_transformer.npz', SIZE, {'name': 'jax_vit_s16'}),
        ('big_vision_token', 'vit_big_vision_token.npz', SIZE, {'name': 'jax_vit_s16'}),
        (
            'big_vision_mean',
            'vit_big_vision_mean.npz',
            SIZE,
            {'name': 'jax_vit_s16', 'class_token': False, 'position': 'sincos2d', 'representation': 6},
        ),
    ],
)
def test_files_of_jax_libraries_give_their_logits(source, file, size, options):
    experiment = _experiment(file, size, **options)
    fresh = [leaf.path for leaf in experiment.plan.leaves if leaf.status == 'new']
    assert fresh == (['backbone/embeddings/cls_position'] if source == 'big_vision_token' else [])
    leaves = jtl.load_leaves(experiment)
    found = jax.jit(lambda leaves, x: experiment.net.apply(leaves, {'image': x})[0][HEAD])(leaves, golden_case.images(size))
    with np.load(GOLDEN / 'vit_logits.npz') as logits:
        assert np.abs(logits[source]).max() > 0.1
        np.testing.assert_allclose(found, logits[source], atol=2e-5, rtol=0)


def test_vision_transformer_of_today_counts_otherwise_and_holds_the_same():
    old, new = (_experiment(f'vit_vision_transformer{kind}.npz', SIZE, name='jax_vit_s16') for kind in ('', '_linen'))
    assert [source.table.name for e in (old, new) for source in e.adaptation.sources.values()] == [
        'vision_transformer',
        'vision_transformer since Linen',
    ]
    jax.tree.map(np.testing.assert_array_equal, jtl.load_leaves(old), jtl.load_leaves(new))


def test_logits_equal_those_of_timm():
    golden_case.check('vit_timm', {'name': 'vit_s16', **TINY, 'pretrained_image_size': SIZE}, size=SIZE, tolerance=2e-5)


def test_logits_equal_those_of_dinov2_in_transformers_at_another_size():
    options = {'name': 'dinov2_s14', **TINY, 'mlp': 16, 'pretrained_image_size': 20, 'registers': 2}
    golden_case.check('vit_dinov2', options, size=SIZE, tolerance=2e-5, pool='pooled_and_mean')


@pytest.mark.parametrize('name', SIZES)
def test_sizes_are_those_published(name):
    model = build_model({'name': name})
    dinov2 = name.startswith('dinov2')
    params, stats = init_shapes(model.backbone, model.inputs((518, 518) if dinov2 else (224, 224)))
    count = sum(int(np.prod(leaf.shape)) for leaf in params.values())
    width = params['backbone/norm/layer_norm/scale'].shape[0]
    assert not stats
    if dinov2:
        assert round(count / 1e6, 2) == SIZES[name]
    else:
        assert count + (width + 1) * 1000 == SIZES[name]
    grid = 37 if dinov2 else 224 // int(name[-2:])
    assert params['backbone/embeddings/position'].shape == (grid, grid, width)
    assert params['backbone/block_3/attention/query/kernel'].shape == (width, width)
    assert ('backbone/embeddings/registers' in params) == name.endswith('_reg')
    assert ('backbone/block_0/layer_scale_1' in params) == dinov2


@pytest.mark.parametrize(
    ('name', 'sizes', 'mean'), [('vit_b16', {224, 384, 512}, 127.5), ('deit_b16', {224, 384}, 123.675), ('jax_vit_b16', {224, 384}, 127.5)]
)
def test_known_weights_bring_their_preprocessing(name, sizes, mean):
    model = build_model({'name': name})
    assert {w.preprocessing.size[0] for w in model.weights} == sizes
    assert model.preprocessing.size == (224, 224) and model.preprocessing.mean[0] == mean
    dinov2 = build_model({'name': 'dinov2_b14'})
    assert (dinov2.preprocessing.size, round(224 / dinov2.preprocessing.crop)) == ((224, 224), 256)


def _timm_checkpoint(tokens, width=384):
    """Keys of timm's ViT as far as a table looks at them."""
    specs = {
        'patch_embed.proj.weight': (width, 3, 16, 16),
        'pos_embed': (1, tokens, width),
        'cls_token': (1, 1, width),
        'blocks.0.mlp.fc1.weight': (4 * width, width),
    }
    return Checkpoint(
        'memory', 'torch', {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in specs.items()}, lambda key: np.zeros(specs[key])
    )


@pytest.mark.parametrize(('tokens', 'side', 'crop'), [(197, 224, 0.9), (577, 384, 1.0)])
def test_count_of_positions_tells_published_weights_apart(tokens, side, crop):
    model = vit_s16()
    params, _ = init_shapes(model.backbone, model.inputs((160, 224)))
    table = choose_table(_timm_checkpoint(tokens), [w.table for w in model.weights], params)
    weights = next(w for w in model.weights if w.table is table or w.table.name == table.name)
    assert (weights.preprocessing.size, weights.preprocessing.crop) == ((side, side), crop)
    positions = {'backbone/embeddings/position': params['backbone/embeddings/position']}
    rule = next(r for r in weights.table.rules if r.pattern == 'backbone/embeddings/position')
    assert rule.value[-1] == ('grid', side // 16, side // 16)
    assert positions['backbone/embeddings/position'].shape == (10, 14, 384)


def test_another_count_of_positions_is_never_guessed():
    """300 positions may be 15 x 20 or 10 x 30."""
    model = vit_s16()
    params, _ = init_shapes(model.backbone, model.inputs((224, 224)))
    checkpoint = _timm_checkpoint(301)
    table = choose_table(checkpoint, [w.table for w in model.weights], params)
    with pytest.raises(
        CheckpointError, match=r'a grid of 14 x 14 needs \(196, D\): say which size of picture these weights were trained on'
    ):
        adapt(params, {'': Source(checkpoint, table)})
    told = vit_s16(pretrained_image_size=(240, 320))
    position = {'backbone/embeddings/position': params['backbone/embeddings/position']}
    source = Source(replace(checkpoint, specs={'pos_embed': checkpoint.specs['pos_embed']}), told.weights[0].table)
    rules = [r for r in source.table.rules if 'position' in r.pattern]
    both = position | {'backbone/embeddings/cls_position': params['backbone/embeddings/cls_position']}
    found = adapt(both, {'': Source(source.checkpoint, replace(source.table, rules=tuple(rules)))}).origins
    assert found['backbone/embeddings/position'].functions[-1] == ('grid', 15, 20, 14, 14)
    assert told.weights[0].preprocessing.size == (240, 320)


def test_files_of_the_other_lineage_are_refused_with_what_is_known():
    with pytest.raises(CheckpointError, match='vision_transformer has keys such as embedding/kernel'):
        _experiment('vit_flax.msgpack', (12, 12), name='jax_vit_s16')


def test_kept_head_cannot_do_without_its_representation():
    """The original's tanh layer belongs to the head: not missed with a new one, an error with the old."""
    parts = {'class_token': False, 'position': 'sincos2d', 'name': 'jax_vit_s16'}
    with pytest.raises(CheckpointError, match='pre_logits/kernel'):
        _experiment('vit_big_vision_mean.npz', SIZE, **parts)
    fields = jtl.default_config()
    with fields.unlocked(), fields.ignore_type():
        fields.model.update({**TINY, 'image_size': SIZE, **parts})
    fields.init_from, fields.steps = str(GOLDEN / 'vit_big_vision_mean.npz'), 1
    split = Split([{'image': np.zeros((*SIZE, 3), np.uint8), 'label': 0}] * 2, np.zeros(2, np.int32), str)
    jtl.build(fields, data=Data({'train': split}, ('a', 'b')))


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), shapes)


OPTIONS = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 4}
MODEL = vit(**OPTIONS, registers=2, layer_scale=0.1, representation=6)
X = golden_case.images(SIZE)
VARIABLES = _fill(MODEL.backbone.init, {'image': X})


def test_every_cut_equals_running_through():
    names = [stage.name for stage in MODEL.backbone.stages]
    assert names == ['embeddings', 'block_0', 'block_1', 'norm', 'representation']
    assert depths(MODEL.backbone.stages) == {'embeddings': 0, 'block_0': 1, 'block_1': 2, 'norm': 3, 'representation': 3}
    whole = MODEL.backbone.apply(VARIABLES, {'image': X})
    assert {name: x.shape for name, x in whole.items()} == {'map': (2, 2, 3, 8), 'pooled': (2, 6)}
    for cut in names[1:]:
        middle = MODEL.backbone.apply(VARIABLES, {'image': X}, stop=cut)
        assert middle['map'].shape == (2, 2, 3, 8) and all(len(x) == 2 for x in middle.values())
        end = MODEL.backbone.apply(VARIABLES, middle, start=cut)
        jax.tree.map(np.testing.assert_array_equal, end, whole)


def test_dropout_only_in_training():
    mlp = Mlp(64, dropout=0.5)
    x = golden_case.images((2, 2), channels=4)[0]
    variables = {
        'params': {'fc1': {'kernel': np.zeros((4, 64)), 'bias': np.full(64, 9.0)}, 'fc2': {'kernel': np.ones((64, 4)), 'bias': np.zeros(4)}}
    }
    found = mlp.apply(variables, x, Mode(train=True), rngs={'dropout': jax.random.key(0)})
    kept = np.asarray(found)[..., 0] / 18
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    assert kept.min() > 20 and kept.max() < 44 and len(np.unique(kept.round())) > 1
    np.testing.assert_allclose(mlp.apply(variables, x), 64 * 9, rtol=1e-6)


def test_attention_by_hand():
    block = Block(2, 12)
    grid, tokens = (np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(2, 2, 3, 8), (2, 1, 8)]))
    variables = _fill(block.init, {'map': grid, 'tokens': tokens})
    found = block.apply(variables, {'map': grid, 'tokens': tokens})
    p = variables['params']

    def norm(x, leaves):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * leaves['scale'] + leaves['bias']

    def dense(x, leaves):
        return x @ leaves['kernel'] + leaves['bias']

    x = np.concatenate([tokens, grid.reshape(2, 6, 8)], axis=1)
    y = norm(x, p['norm1'])
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        q, k, v = (dense(y, p['attention'][name])[..., part] for name in ('query', 'key', 'value'))
        scores = np.exp(q @ k.swapaxes(1, 2) / 2)
        heads.append(scores / scores.sum(-1, keepdims=True) @ v)
    x = x + dense(np.concatenate(heads, axis=-1), p['attention']['out'])
    hidden = dense(norm(x, p['norm2']), p['mlp']['fc1'])
    hidden = hidden * 0.5 * (1 + np.asarray(jax.scipy.special.erf(hidden / 2**0.5)))
    x = x + dense(hidden, p['mlp']['fc2'])
    np.testing.assert_allclose(found['tokens'], x[:, :1], atol=1e-5)
    np.testing.assert_allclose(found['map'].reshape(2, 6, 8), x[:, 1:], atol=1e-5)


def test_gated_mlp_by_hand():
    mlp = Mlp(3, swiglu=True)
    x = golden_case.images((2, 2), channels=4)[0]
    variables = _fill(mlp.init, x)
    p = variables['params']
    y = x @ p['fc1']['kernel'] + p['fc1']['bias']
    gate, value = y[..., :3], y[..., 3:]
    wanted = (gate / (1 + np.exp(-gate)) * value) @ p['fc2']['kernel'] + p['fc2']['bias']
    np.testing.assert_allclose(mlp.apply(variables, x), wanted, atol=1e-5)


def test_fixed_positions():
    found = np.asarray(sincos2d(2, 3, 8))
    assert found.shape == (2, 3, 8)
    frequencies = np.array([1.0, 1e-4])
    np.testing.assert_allclose(
        found[1, 2], [*np.sin(2 * frequencies), *np.cos(2 * frequencies), *np.sin(frequencies), *np.cos(frequencies)], atol=1e-6
    )


def test_branches_are_dropped_more_with_depth_and_only_in_training():
    rates = [stage.make().drop_rate for stage in vit(**{**OPTIONS, 'depth': 5}, stochastic_depth=0.2).backbone.stages[1:6]]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2])
    block = Block(2, 12, drop_rate=0.75)
    x = np.tile(golden_case.images((1, 2), n=1, channels=8), (64, 1, 1, 1))
    variables = _fill(block.init, {'map': x})
    run = jax.jit(lambda key: block.apply(variables, {'map': x}, Mode(train=True), rngs={'dropout': key})['map'])
    trained = np.asarray(run(jax.random.key(0)))
    assert 20 < int((np.abs(trained - x).max((1, 2, 3)) < 1e-6).sum()) < 52, 'both branches of some 9 in 16'
    assert len(np.unique(trained.round(4), axis=0)) == 4, 'none, one, the other, or both'


def test_bfloat16_computes_near_float32():
    half = vit(**OPTIONS, registers=2, layer_scale=0.1, representation=6, dtype=jnp.bfloat16)
    found = jax.jit(half.backbone.apply)(VARIABLES, {'image': X})
    wanted = MODEL.backbone.apply(VARIABLES, {'image': X})  # compiled already, op by op
    for name in ('map', 'pooled'):
        assert found[name].dtype == jnp.bfloat16
        np.testing.assert_allclose(found[name].astype(np.float32), wanted[name], atol=0.05 * float(jnp.abs(wanted[name]).max()))


def test_without_class_token_there_is_no_pooled():
    model = vit(**OPTIONS, class_token=False)
    shapes = jax.eval_shape(lambda key: model.backbone.init_with_output(key, {'image': X})[0], jax.random.key(0))
    assert shapes.keys() == {'map'}


def test_grey_pictures_and_other_patches_from_colour_weights():
    model = vit(**{**OPTIONS, 'patch': (8, 4)}, image_channels=1, pretrained_patch=4, pretrained_image_size=SIZE)
    assert model.preprocessing.channels == 'L'
    params, _ = init_shapes(model.backbone, model.inputs((16, 12)))
    weight = golden_case.weight('patch_embed.proj.weight', (8, 3, 4, 4))
    specs = {'patch_embed.proj.weight': jax.ShapeDtypeStruct(weight.shape, jnp.float32)}
    table = next(w.table for w in model.weights if w.table.name == TIMM.name)
    path = 'backbone/embeddings/patch/kernel'
    rules = tuple(rule for rule in table.rules if rule.pattern == path)
    checkpoint = Checkpoint('memory', 'torch', specs, lambda key: weight)
    found = adapt({path: params[path]}, {'': Source(checkpoint, replace(table, rules=rules))}).origins[path]
    assert found.functions == (('transpose', 2, 3, 1, 0), ('channels', 1), ('patch', 8, 4))
    assert read(found, checkpoint).shape == (8, 4, 1, 8)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'width': 0}, 'width'),
        ({'heads': 5}, 'multiple of heads'),
        ({'registers': -1}, 'registers'),
        ({'dropout': 1.0}, 'dropout'),
        ({'stochastic_depth': -0.1}, 'stochastic_depth'),
        ({'position': 'sine'}, 'position'),
        ({'position': 'sincos2d', 'width': 6, 'heads': 1}, 'multiple of 4'),
        ({'gelu': 'fast'}, 'gelu'),
        ({'layer_scale': -1.0}, 'layer_scale'),
        ({'epsilon': 0.0}, 'epsilon'),
        ({'patch': 0}, r'model\.patch is a side'),
        ({'patch': (4, 4, 4)}, r'model\.patch is a side'),
        ({'pretrained_image_size': '224'}, r'model\.pretrained_image_size is a side'),
        ({'source': 'timm'}, r"model\.source: there is no 'timm'"),
        ({'image_channels': 0}, 'image_channels'),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'vit_s16'} | option)


def test_picture_that_does_not_divide_into_patches():
    with pytest.raises(
        UserError, match=r'225 x 10, which does not divide into patches of 16 x 16 pixels\. The nearest that does is 224 x 16'
    ):
        vit_s16().inputs((225, 10))
