"""Recurrent nets against plain Python, one row at a time, and what padding, cuts and dropout may and may not change."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.adapt import Source, adapt, choose_table
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, WORDS, Mode, init_shapes, unflatten
from jtl.models.recurrent import Direction, Embeddings, Layer

LENGTHS = (5, 1, 3, 0)
SMALL = {'vocab_size': 11, 'embedding': 3, 'hidden': 4, 'layers': 2}
TRAIN = Mode(train=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_cell(x, h, c, wx, bx, wh, bh):
    i, f, g, o = np.split(x @ wx + bx + h @ wh + bh, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_cell(x, h, c, wx, bx, wh, bh):
    (r, z, n), (rh, zh, nh) = np.split(x @ wx + bx, 3), np.split(h @ wh + bh, 3)
    r, z = sigmoid(r + rh), sigmoid(z + zh)
    return (1 - z) * np.tanh(n + r * nh) + z * h, c


def run_row(cell, xs, leaves):
    """The states of one row without padding, from its first to its last."""
    h = c = np.zeros(leaves[2].shape[0])
    states = []
    for x in xs:
        h, c = cell(x, h, c, *leaves)
        states.append(h)
    return states


def leaves_of(params, seed=0):
    draw = np.random.default_rng(seed)
    return {path: draw.normal(0, 0.7, leaf.shape).astype(np.float32) for path, leaf in params.items()}


def inputs_of(lengths, width, seed=0):
    ids = np.random.default_rng(seed).integers(0, 11, (len(lengths), width), np.int32)
    return {'ids': ids, 'mask': np.arange(width) < np.array(lengths)[:, None]}


def net(name, **options):
    """A small model, its random leaves as variables, and its compiled `apply`."""
    model = build_model({'name': name, **SMALL, **options})
    leaves = leaves_of(init_shapes(model.backbone, model.inputs((5,)))[0])
    return model, leaves, partial(jax.jit(model.backbone.apply), {'params': unflatten(leaves, 'backbone')})


NETS = {(name, two): net(name, bidirectional=two) for name in ('lstm', 'gru') for two in (False, True)}


def test_one_step_of_an_lstm_by_hand():
    """One unit, one input 2, biases 0: the gates are the sigmoids of i = 0.5, f = 1, o = -0.5, and the new cell tanh(1)."""
    kernel = np.array([[0.25, 0.5, 0.5, -0.25]], np.float32)
    params = {
        'input': {'kernel': kernel, 'bias': np.zeros(4, np.float32)},
        'hidden': {'kernel': np.ones((1, 4), np.float32), 'bias': np.zeros(4, np.float32)},
    }
    states, last = Direction('lstm', 1).apply({'params': params}, np.full((1, 1, 1), 2, np.float32), np.ones((1, 1), bool))
    c = math.tanh(1) / (1 + math.exp(-0.5))
    assert float(last[0, 0]) == pytest.approx(math.tanh(c) / (1 + math.exp(0.5)), rel=1e-6)
    assert np.array_equal(states[:, 0], last)


def test_two_steps_of_a_gru_by_hand():
    """One unit, inputs 1 and 0; the hidden bias of the new state is 1 and is behind the reset gate."""
    params = {
        'input': {'kernel': np.array([[1, 2, 3]], np.float32), 'bias': np.zeros(3, np.float32)},
        'hidden': {'kernel': np.array([[0.5, -0.5, 2]], np.float32), 'bias': np.array([0, 0, 1], np.float32)},
    }
    states, last = Direction('gru', 1).apply({'params': params}, np.array([[[1], [0]]], np.float32), np.ones((1, 2), bool))
    first = (1 - sigmoid(2.0)) * math.tanh(3 + sigmoid(1.0))
    r, z = sigmoid(0.5 * first), sigmoid(-0.5 * first)
    second = (1 - z) * math.tanh(r * (2 * first + 1)) + z * first
    np.testing.assert_allclose(states[0, :, 0], [first, second], rtol=1e-6)
    assert float(last[0, 0]) == float(states[0, 1, 0])


@pytest.mark.parametrize(('name', 'two'), list(NETS))
def test_ragged_rows_equal_each_row_alone_in_plain_numpy(name, two):
    _, leaves, run = NETS[name, two]
    inputs = inputs_of(LENGTHS, 6)
    found = run(inputs)
    cell = {'lstm': lstm_cell, 'gru': gru_cell}[name]
    assert found.keys() == {'tokens', 'mask', 'pooled'}
    for row, length in enumerate(LENGTHS):
        xs = leaves[WORDS][inputs['ids'][row, :length]].astype(np.float64)
        for layer in range(2):
            ways = [
                [leaves[f'backbone/layer_{layer}/{way}/{part}/{leaf}'] for part in ('input', 'hidden') for leaf in ('kernel', 'bias')]
                for way in ('forward', 'backward')[: 1 + two]
            ]
            outputs = [run_row(cell, xs, ways[0]), *([run_row(cell, xs[::-1], ways[1])[::-1]] if two else [])]
            ends = [outputs[0][-1:], *([outputs[1][:1]] if two else [])]
            xs = np.array([np.concatenate(states) for states in zip(*outputs, strict=True)]).reshape(length, 4 * (1 + two))
        np.testing.assert_allclose(found['tokens'][row, :length], xs, atol=1e-5)
        assert not np.asarray(found['tokens'][row, length:]).any()
        np.testing.assert_allclose(found['pooled'][row], np.ravel(ends) if length else 0, atol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.integers(0, 99), st.sampled_from([('lstm', False), ('gru', True)]))
def test_padding_changes_nothing(lengths, seed, which):
    *_, run = NETS[which]
    inputs = inputs_of(lengths, 6, seed)
    wanted = run(inputs)
    other = {**inputs, 'ids': np.where(inputs['mask'], inputs['ids'], (inputs['ids'] + 1 + seed % 10) % 11)}
    found = run(other)
    for leaf in ('tokens', 'pooled'):
        np.testing.assert_array_equal(found[leaf], wanted[leaf], 'other words in the padding')
    wider = {name: np.pad(value, ((0, 0), (0, 3))) for name, value in inputs.items()}
    found = run(wider)
    np.testing.assert_allclose(found['tokens'][:, :6], wanted['tokens'], atol=1e-6, err_msg='a wider batch')
    np.testing.assert_allclose(found['pooled'], wanted['pooled'], atol=1e-6)


@pytest.mark.parametrize('name', ['lstm', 'gru'])
def test_in_one_direction_a_token_knows_nothing_of_those_behind_it(name):
    inputs = inputs_of((6, 6, 6, 6), 6)
    for t in range(6):
        later = inputs['ids'].copy()
        later[:, t + 1 :] = (later[:, t + 1 :] + 3) % 11
        for two in (False, True):
            *_, run = NETS[name, two]
            before, after = (np.asarray(run({**inputs, 'ids': ids})['tokens']) for ids in (inputs['ids'], later))
            same = np.array_equal(before[:, : t + 1], after[:, : t + 1])
            assert same or two
            assert not same or not two or t == 5, 'two directions know it'
            assert t == 5 or not np.array_equal(before[:, t + 1], after[:, t + 1]), 'the change is seen where it is'


@pytest.mark.parametrize('training', [False, True])
def test_every_cut_equals_running_through_and_needs_only_its_stages(training):
    model, leaves, _ = net('gru', embedding_dropout=0.3, recurrent_dropout=0.3)
    params = unflatten(leaves, 'backbone')
    names = [stage.name for stage in model.backbone.stages]
    assert names == ['embeddings', 'layer_0', 'layer_1']
    modes = dict.fromkeys(names, TRAIN) if training else None
    inputs = {**inputs_of(LENGTHS, 6), 'segments': np.zeros((4, 6), np.int32), 'word_starts': np.arange(8).reshape(4, 2)}

    def run(features, keep, **cut):
        variables = {'params': {name: params[name] for name in keep}}
        apply = jax.jit(lambda v, x, key: model.backbone.apply(v, x, modes, rngs={'dropout': key}, **cut))
        return apply(variables, features, jax.random.key(3))

    whole = run(inputs, names)
    assert whole.keys() == {'tokens', 'mask', 'pooled', 'word_starts'}, 'what a stage does not know travels on'
    for k, cut in enumerate(names[1:], 1):
        if training and k == 1:  # the random numbers take long to compile; the later cut has them on both sides
            continue
        middle = run(inputs, names[:k], stop=cut)
        assert middle.keys() == {'tokens', 'mask', 'word_starts'}
        end = run(middle, names[k:], start=cut)
        for leaf in whole:
            np.testing.assert_array_equal(end[leaf], whole[leaf], f'{leaf}, cut at {cut}')


def test_dropout_is_on_what_a_layer_reads_and_only_in_training():
    layer = Layer('gru', 2, dropout=0.5)
    features = {'tokens': np.ones((1, 1, 400), np.float32), 'mask': np.ones((1, 1), bool)}
    kernel = np.zeros((400, 6), np.float32)
    kernel[:, 4] = 1e-3  # the first new unit counts what it sees; half of it is let in
    params = {
        'input': {'kernel': kernel, 'bias': np.zeros(6, np.float32)},
        'hidden': {'kernel': np.zeros((2, 6), np.float32), 'bias': np.zeros(6, np.float32)},
    }
    seen = []
    for mode in (EVAL, TRAIN):
        out = layer.apply({'params': {'forward': params}}, features, mode, rngs={'dropout': jax.random.key(1)})
        seen.append(1000 * math.atanh(2 * float(out['tokens'][0, 0, 0])))
    assert seen[0] == pytest.approx(400, rel=1e-3)
    kept = seen[1] / 2
    assert kept == pytest.approx(round(kept), abs=0.01) and 160 < kept < 240, 'whole inputs, doubled'


def test_recurrent_dropout_hides_the_same_units_in_every_step():
    """With a diagonal kernel every unit is a net of its own, which either never sees itself or sees itself doubled."""
    rows, steps, units = 8, 6, 5
    draw = np.random.default_rng(0)
    diagonal = np.concatenate([np.diag(draw.normal(0, 2, units)) for _ in range(4)], axis=1).astype(np.float32)
    params = {
        'input': {'kernel': draw.normal(size=(3, 20)).astype(np.float32), 'bias': np.zeros(20, np.float32)},
        'hidden': {'kernel': diagonal, 'bias': np.zeros(20, np.float32)},
    }
    x, mask = draw.normal(size=(rows, steps, 3)).astype(np.float32), np.ones((rows, steps), bool)
    direction = Direction('lstm', units, recurrent_dropout=0.5)

    @partial(jax.jit, static_argnums=0)
    def states(mode, scale):
        hidden = {**params['hidden'], 'kernel': scale * diagonal}
        return direction.apply({'params': {**params, 'hidden': hidden}}, x, mask, mode, rngs={'dropout': jax.random.key(0)})[0]

    trained, hidden, doubled = (np.asarray(states(*way)) for way in ((TRAIN, 1.0), (EVAL, 0.0), (EVAL, 2.0)))
    is_hidden, is_doubled = (np.abs(trained - other).max(axis=1) < 1e-5 for other in (hidden, doubled))
    assert (is_hidden ^ is_doubled).all(), 'each unit of each row is one or the other in all of its steps'
    assert 0.25 < is_hidden.mean() < 0.75
    assert len(np.unique(is_hidden, axis=0)) > 4, 'each row has a mask of its own'


def test_embedding_dropout_leaves_out_whole_words():
    stage = Embeddings(50, 3, word_dropout=0.4)
    ids = np.random.default_rng(0).integers(0, 50, (8, 20), np.int32)
    features = {'ids': ids, 'mask': np.ones((8, 20), bool)}
    table = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    variables = {'params': {'word': {'embedding': table}}}
    np.testing.assert_array_equal(stage.apply(variables, features)['tokens'], table[ids])
    tokens = np.asarray(stage.apply(variables, features, TRAIN, rngs={'dropout': jax.random.key(0)})['tokens'])
    left_out = {int(word) for word in ids[~tokens.any(axis=-1)]}
    kept = ~np.isin(ids, list(left_out))
    assert 10 < len(left_out) < 30
    assert not tokens[~kept].any(), 'wherever it stands'
    np.testing.assert_allclose(tokens[kept], table[ids][kept] / 0.6, rtol=1e-5)


def test_words_are_zero_where_masked():
    stage = Embeddings(4, 2)
    table = np.ones((4, 2), np.float32)
    found = stage.apply(
        {'params': {'word': {'embedding': table}}}, {'ids': np.zeros((1, 3), np.int32), 'mask': np.array([[True, False, True]])}
    )
    assert np.asarray(found['tokens'])[0].tolist() == [[1, 1], [0, 0], [1, 1]]


def test_paths_shapes_and_the_start():
    model = build_model({'name': 'gru', 'vocab_size': 7, 'embedding': 5, 'hidden': 4, 'layers': 2, 'bidirectional': True})
    params, stats = init_shapes(model.backbone, model.inputs((6,)))
    wanted = {WORDS: (7, 5)}
    for layer, width in enumerate((5, 8)):
        for way in ('forward', 'backward'):
            at = f'backbone/layer_{layer}/{way}'
            wanted |= {f'{at}/input/kernel': (width, 12), f'{at}/hidden/kernel': (4, 12)}
            wanted |= {f'{at}/input/bias': (12,), f'{at}/hidden/bias': (12,)}
    assert {path: leaf.shape for path, leaf in params.items()} == wanted and not stats
    assert (model.vocabulary, model.positions, model.preprocessing) == (7, 0, None)
    assert model.inputs((6,)) == {'ids': jax.ShapeDtypeStruct((6,), jnp.int32), 'mask': jax.ShapeDtypeStruct((6,), jnp.bool_)}
    with pytest.raises(UserError, match='reads no pictures'):
        build_model({'name': 'gru', 'vocab_size': 7, 'image_size': 32})

    start = jax.jit(Direction('lstm', 25).init)(jax.random.key(0), np.zeros((1, 1, 40), np.float32), np.ones((1, 1), bool))['params']
    for leaf in jax.tree.leaves(start):
        assert np.abs(leaf).max() <= 0.2 and np.abs(leaf).max() > 0.19, 'within 1 / sqrt(25), as PyTorch'


def test_a_dtype_for_computing_and_one_for_parameters_and_a_state_in_float32():
    layer = Layer('lstm', 4, bidirectional=True, pool=True, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    features = {'tokens': jnp.ones((2, 400, 4), jnp.bfloat16), 'mask': jnp.ones((2, 400), bool)}
    out, variables = jax.eval_shape(partial(layer.init_with_output, jax.random.key(0)), features)
    assert (out['tokens'].dtype, out['pooled'].dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}

    # An open gate adds 1/512 to the cell in each of 400 steps; in bfloat16 it would stop at 1/2, where 1/512 no longer counts.
    big, small = 20.0, math.atanh(1 / 512)
    params = {
        'input': {'kernel': np.zeros((4, 16), np.float32), 'bias': np.repeat(np.float32([big, big, small, big]), 4)},
        'hidden': {'kernel': np.zeros((4, 16), np.float32), 'bias': np.zeros(16, np.float32)},
    }
    _, last = jax.jit(Direction('lstm', 4, dtype=jnp.bfloat16).apply)({'params': params}, features['tokens'], features['mask'])
    np.testing.assert_allclose(np.asarray(last, np.float32), math.tanh(400 / 512), rtol=0.01)


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'vocab_size': 0}, r'model\.vocab_size: lstm needs'),
        ({'hidden': 0}, 'hidden and layers from 1'),
        ({'layers': 0}, 'layers from 1'),
        ({'dropout': 1.0}, r'model\.dropout: a rate in \[0, 1\), found 1\.0'),
        ({'embedding_dropout': -0.1}, r'model\.embedding_dropout'),
        ({'recurrent_dropout': 2.0}, r'model\.recurrent_dropout'),
        ({'bidirectonal': True}, "Did you mean 'bidirectional'"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        build_model({'name': 'lstm', **SMALL, **options})


def torch_specs(names, layers=1, two=False, kind=4):
    """Keys and shapes of a PyTorch state dict: `names` are (embedding or '', the recurrent module's prefix)."""
    embedding, rnn = names
    shapes = {f'{embedding}.weight': (11, 3)} if embedding else {}
    for layer in range(layers):
        for end in ('', '_reverse')[: 1 + two]:
            width = 4 * (1 + two) if layer else 3
            shapes |= {f'{rnn}weight_ih_l{layer}{end}': (4 * kind, width), f'{rnn}weight_hh_l{layer}{end}': (4 * kind, 4)}
            shapes |= {f'{rnn}bias_{part}_l{layer}{end}': (4 * kind,) for part in ('ih', 'hh')}
    return shapes


def origins(shapes, model):
    specs = {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in shapes.items()}
    checkpoint = Checkpoint('w.pth', 'torch zip', specs, lambda key: np.zeros(shapes[key], np.float32))
    params, _ = init_shapes(model.backbone, model.inputs((5,)))
    table = choose_table(checkpoint, [weights.table for weights in model.weights], params)
    return adapt(params, {'': Source(checkpoint, table)}).origins


@pytest.mark.parametrize(('layers', 'two'), [(1, False), (1, True), (3, True)])
@pytest.mark.parametrize(
    'names', [('embedding', 'lstm.'), ('embeddings', 'rnn.'), ('net.embed', 'net.lstm.'), ('encoder', 'rnn.'), ('', 'layers.a.'), ('', '')]
)
def test_modules_that_people_write(names, layers, two):
    model = build_model({'name': 'lstm', **SMALL, 'layers': layers, 'bidirectional': two})
    found = origins(torch_specs(names, layers, two), model)
    new = [path for path, origin in found.items() if origin.status == 'new']
    assert new == ([] if names[0] else [WORDS])
    assert found['backbone/layer_0/forward/hidden/kernel'].key == f'{names[1]}weight_hh_l0'
    if two:
        assert found[f'backbone/layer_{layers - 1}/backward/input/bias'].key == f'{names[1]}bias_ih_l{layers - 1}_reverse'


def test_a_net_of_another_shape_is_refused():
    model = build_model({'name': 'gru', **SMALL, 'layers': 1})
    assert all(origin.status != 'new' for origin in origins(torch_specs(('embedding', 'gru.'), kind=3), model).values())
    with pytest.raises(CheckpointError, match=r'embedding\.weight'):
        origins(torch_specs(('words.embedding', 'gru.'), kind=3), model)
    for more in ({'layers': 2}, {'two': True}):
        with pytest.raises(CheckpointError, match='weight_ih_l1' if 'layers' in more else 'weight_ih_l0_reverse'):
            origins(torch_specs(('embedding', 'gru.'), kind=3, **more), model)
    with pytest.raises(CheckpointError, match=r'\(16, 4\)'):  # an LSTM's
        origins(torch_specs(('embedding', 'rnn.'), kind=4), model)


def test_the_old_head_is_not_missed():
    model = build_model({'name': 'lstm', **SMALL, 'layers': 1})
    for embedding, head in (('embedding', 'fc'), ('encoder', 'decoder')):
        shapes = torch_specs((embedding, 'rnn.')) | {f'{head}.weight': (11, 4), f'{head}.bias': (11,)}
        assert all(origin.status != 'new' for origin in origins(shapes, model).values())
