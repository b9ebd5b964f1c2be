import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.adapt import NameTable, Source, adapt, choose_table, fits, read, split_targets
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError
from jtl.rules import as_rules

fixed = settings(derandomize=True, deadline=None, max_examples=50)
F32 = np.dtype('float32')


def checkpoint(arrays, origin='weights.pth'):
    specs = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in arrays.items()}
    return Checkpoint(origin, 'fake', specs, lambda key: arrays[key])


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def filled(*shape, dtype=F32):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def torch_like():
    """Two blocks with a fused query-key-value, BatchNorm counters, and a head, as a torch checkpoint names them."""
    arrays = {'stem.weight': filled(4, 3, 2, 2)}
    for i in range(2):
        arrays |= {f'layer.{i}.qkv.weight': filled(12, 4), f'layer.{i}.bn.running_mean': filled(4), f'layer.{i}.bn.num': np.array(i)}
    return arrays | {'fc.weight': filled(10, 4), 'fc.bias': filled(10)}


def rule_table(**changes):
    rules = [
        ('backbone/stem/kernel', ('stem.weight', ('transpose', 2, 3, 1, 0))),
        (r'backbone/block_(\d+)/bn/mean', r'layer.\1.bn.running_mean'),
        *(
            (rf'backbone/block_(\d+)/{name}/kernel', (r'layer.\1.qkv.weight', ('part', i, 3, 0), ('transpose', 1, 0)))
            for i, name in enumerate(['query', 'key', 'value'])
        ),
    ]
    head = [('heads/.*/kernel', ('fc.weight', ('transpose', 1, 0))), ('heads/.*/bias', 'fc.bias')]
    made = {
        'name': 'torch-like',
        'detect': ('stem.weight', 'fc.weight'),
        'rules': as_rules(rules, optional=True, origin='torch-like'),
        'head': as_rules(head, optional=True, origin='torch-like'),
        'ignore': (r'layer\.\d+\.bn\.num',),
    }
    return NameTable(**(made | changes))


def model(classes=10, blocks=2):
    targets = {'backbone/stem/kernel': spec(2, 2, 3, 4)}
    for i in range(blocks):
        targets |= {f'backbone/block_{i}/{name}/kernel': spec(4, 4) for name in ('query', 'key', 'value')}
        targets[f'backbone/block_{i}/bn/mean'] = spec(4)
    return targets | {'heads/main/kernel': spec(4, classes), 'heads/main/bias': spec(classes)}


def load(targets, arrays, table=None, **options):
    source = Source(checkpoint(arrays), table or rule_table())
    return adapt(targets, {'': source}, **options)


def refused(targets, arrays, table=None, **options):
    with pytest.raises(CheckpointError) as error:
        load(targets, arrays, table, **options)
    return str(error.value)


def test_every_leaf_has_its_origin_and_its_numbers():
    arrays = torch_like()
    found = load(model(classes=5), arrays)
    assert list(found.origins) == list(model())
    assert {path: origin.status for path, origin in found.origins.items() if 'block_1' not in path} == {
        'backbone/stem/kernel': 'adapted',
        'backbone/block_0/query/kernel': 'adapted',
        'backbone/block_0/key/kernel': 'adapted',
        'backbone/block_0/value/kernel': 'adapted',
        'backbone/block_0/bn/mean': 'renamed',
        'heads/main/kernel': 'new',
        'heads/main/bias': 'new',
    }
    assert {i.key for i in found.ignored} == {'layer.0.bn.num', 'layer.1.bn.num', 'fc.weight', 'fc.bias'}
    fake = found.sources[''].checkpoint
    np.testing.assert_array_equal(read(found.origins['backbone/block_1/key/kernel'], fake), arrays['layer.1.qkv.weight'][4:8].T)
    np.testing.assert_array_equal(read(found.origins['backbone/stem/kernel'], fake), np.einsum('oihw->hwio', arrays['stem.weight']))
    np.testing.assert_array_equal(read(found.origins['backbone/block_0/bn/mean'], fake), arrays['layer.0.bn.running_mean'])


def test_head_is_kept_when_asked():
    arrays = torch_like()
    found = load(model(), arrays, head='keep')
    np.testing.assert_array_equal(read(found.origins['heads/main/kernel'], found.sources[''].checkpoint), arrays['fc.weight'].T)
    assert {i.key for i in found.ignored} == {'layer.0.bn.num', 'layer.1.bn.num'}
    message = refused(model(classes=5), arrays, head='keep')
    assert '2 mismatched' in message
    assert '(10, 4) float32, after transpose(1, 0) (4, 10), needed (4, 5) float32' in message
    assert "config.init_head='new'" in message
    with pytest.raises(UserError, match="init_head is 'new' or 'keep', found 'old'"):
        load(model(), arrays, head='old')


def test_no_data_is_read_before_read():
    arrays = torch_like()
    specs = {key: spec(*x.shape, dtype=x.dtype) for key, x in arrays.items()}

    def never(key):
        raise AssertionError(key)

    adapt(model(), {'': Source(Checkpoint('x', 'fake', specs, never), rule_table())})


def test_all_problems_come_in_one_message():
    arrays = torch_like()
    arrays['stem.weight'] = filled(4, 3, 3, 3)
    arrays['layer.0.qkw.weight'] = arrays.pop('layer.0.qkv.weight')
    arrays['extra.1.x'] = arrays['extra.2.x'] = filled(2)
    message = refused(
        model(), arrays, rules=as_rules([('backbone/stam/kernel', 'stem.weight')], origin='config.init_rules'), ignore=['extra2']
    )
    assert message.startswith('weights.pth (torch-like) does not fit the model of 11 leaves: 3 missing, 1 mismatched, 3 unexpected.')
    assert (
        "Loading rule 'backbone/stam/kernel' (from config.init_rules) matches no path. The nearest paths are backbone/stem/kernel"
        in message
    )
    assert "config.init_ignore: 'extra2' matches no key of the checkpoint. The nearest are extra.2.x" in message
    assert 'nearest of the unread layer.0.qkw.weight' in message
    assert 'extra.{1,2}.x' in message
    assert '(4, 3, 3, 3) float32, after transpose(2, 3, 1, 0) (3, 3, 3, 4), needed (2, 2, 3, 4) float32' in message
    for advice in ('config.init_rules', 'config.init_ignore', 'config.init_head'):
        assert advice in message


def test_repeated_layers_are_one_row():
    message = refused(model(blocks=12), torch_like())
    row = next(line for line in message.splitlines() if 'block_{2...11}/bn/mean' in line)
    assert row.split()[:3] == ['missing', 'backbone/block_{2...11}/bn/mean', 'layer.{2...11}.bn.running_mean']
    assert len(message.splitlines()) < 10


def test_user_rules_go_first_and_must_decide_something():
    arrays = torch_like() | {'other': filled(2, 2, 3, 4)}
    found = load(model(), arrays, rules=as_rules([('.*/stem/.*', 'other')]), ignore=['stem.*'])
    assert (found.origins['backbone/stem/kernel'].key, found.origins['backbone/stem/kernel'].status) == ('other', 'renamed')
    assert [i.by for i in found.ignored if i.key == 'stem.weight'] == ['config.init_ignore: stem.*']
    found = load(model(), torch_like(), rules=as_rules([('.*/stem/.*', None)]), ignore=['stem.*'])
    assert found.origins['backbone/stem/kernel'].status == 'new'
    found = load(model(), torch_like(), rules=as_rules([('heads/main/bias', 'fc.bias')]))
    assert [found.origins[f'heads/main/{leaf}'].status for leaf in ('bias', 'kernel')] == ['renamed', 'new']
    assert 'stem.weight' in refused(model(), torch_like(), rules=as_rules([('.*/stem/.*', None)]))


def test_a_user_ignore_must_spare_a_key():
    assert 'matches only keys that the model reads' in refused(model(), torch_like(), ignore=[r'stem\.weight'])
    assert 'matches no key' in refused(model(), torch_like(), ignore=['stem'])
    with pytest.raises(UserError, match=r"config.init_ignore: '\(' is no regular expression"):
        load(model(), torch_like(), ignore=['('])
    load(model(), torch_like(), table=rule_table(ignore=(r'layer\.\d+\.bn\.num', 'never.*')))  # a table's need not


@pytest.mark.parametrize(
    ('value', 'says'),
    [
        (r'a.\1', r"'x.*' \(from me\): the key template 'a.\\\\1' does not go with the pattern"),
        (('a', ('transposed', 1, 0)), "no leaf function 'transposed'.*Did you mean 'transpose'"),
        (('a', 'transpose'), 'leaf function is a tuple'),
        (3, 'found 3'),
        ((), r'found \(\)'),
        ('', "found ''"),
    ],
)
def test_malformed_rule_values_are_told(value, says):
    with pytest.raises(UserError, match=says):
        load({'x': spec(2)}, {'a': filled(2)}, rules=as_rules([('x.*', value)], origin='me'))


def test_one_rule_never_feeds_two_leaves_from_one_key():
    targets = {'backbone/block_0/bias': spec(2), 'backbone/block_1/bias': spec(2)}
    table = rule_table(rules=as_rules([(r'backbone/block_\d/bias', 'b')]), head=())
    message = refused(targets, {'b': filled(2)}, table)
    assert '2 ambiguous' in message
    assert 'backbone/block_{0,1}/bias' in message
    tied = rule_table(rules=as_rules([(r'backbone/block_0/bias', 'b'), (r'backbone/block_1/bias', 'b')]), head=())
    assert [o.key for o in load(targets, {'b': filled(2)}, tied).origins.values()] == ['b', 'b']


def test_a_dropped_part_is_told_unless_declared():
    targets = {path: x for path, x in model().items() if 'value' not in path}
    message = refused(targets, torch_like())
    assert '2 partly read' in message
    assert 'layer.{0,1}.qkv.weight' in message
    assert 'of 3 parts [2] are read by no leaf' in message
    found = load(targets, torch_like(), ignore=[r'layer\.\d\.qkv\.weight'])
    assert [i.key for i in found.ignored if 'qkv' in i.key] == ['layer.0.qkv.weight', 'layer.1.qkv.weight']


@pytest.mark.parametrize('dtype', [np.float16, np.float64, ml_dtypes.bfloat16, np.float32])
def test_floats_are_cast_and_said(dtype):
    table = rule_table(rules=as_rules([('x', 'a')]), head=())
    found = load({'x': spec(3)}, {'a': np.array([1, 2.5, -3], dtype)}, table)
    assert found.origins['x'].cast is (np.dtype(dtype) != F32)
    out = read(found.origins['x'], found.sources[''].checkpoint)
    assert out.dtype == F32
    assert out.tolist() == [1, 2.5, -3]
    found = load({'x': spec(3, dtype=jnp.bfloat16)}, {'a': np.array([1, 2.5, -3], dtype)}, table)
    assert read(found.origins['x'], found.sources[''].checkpoint).dtype == jnp.bfloat16


@pytest.mark.parametrize(('has', 'needs'), [(np.int32, np.float32), (np.float32, np.int32), (np.int64, np.int32), (np.bool_, np.float32)])
def test_other_dtypes_are_never_cast(has, needs):
    table = rule_table(rules=as_rules([('x', 'a')]), head=())
    message = refused({'x': spec(3, dtype=np.dtype(needs))}, {'a': np.ones(3, has)}, table)
    assert '1 mismatched' in message
    assert 'only floats are cast' in message


def test_a_cast_that_overflows_is_refused():
    table = rule_table(rules=as_rules([('x', 'a')]), head=())
    target = {'x': spec(2, dtype=np.dtype(np.float16))}
    found = load(target, {'a': np.array([1, 1e6], np.float32)}, table)
    with pytest.raises(CheckpointError, match=r"'a' has numbers that float16 cannot hold \(largest 1e\+06\)"):
        read(found.origins['x'], found.sources[''].checkpoint)
    found = load(target, {'a': np.array([np.inf, 1], np.float32)}, table)  # infinite at the source is no overflow
    assert read(found.origins['x'], found.sources[''].checkpoint).tolist() == [np.inf, 1]


def test_damaged_data_is_refused():
    table = rule_table(rules=as_rules([('x', 'a')]), head=())
    found = load({'x': spec(2)}, {'a': filled(2)}, table)
    for bad in (filled(3), filled(2).astype(np.float64)):
        with pytest.raises(CheckpointError, match="'a' was announced as"):
            read(found.origins['x'], Checkpoint('f', 'fake', {}, lambda key, bad=bad: bad))


@fixed
@given(st.dictionaries(st.sampled_from([f'backbone/s{i}/w' for i in range(4)]), st.permutations(range(3)), min_size=1))
def test_transposed_checkpoints_load_back_to_the_original(orders):
    """Round trip: write every leaf transposed under another name, load by the inverse."""
    leaves = {path: filled(2, 3, 4) for path in orders}
    arrays = {path.replace('/', '.'): leaves[path].transpose(order) for path, order in orders.items()}
    rules = as_rules([(path, (path.replace('/', '.'), ('transpose', *np.argsort(o).tolist()))) for path, o in orders.items()])
    found = load({path: spec(2, 3, 4) for path in leaves}, arrays, rule_table(rules=rules, head=()))
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(read(found.origins[path], found.sources[''].checkpoint), leaf)


# ---- choosing a table


def own(path_to_key, targets):
    return {path_to_key(path): np.zeros(t.shape, t.dtype) for path, t in targets.items()}


def linen(path):
    return ('batch_stats/' if path.endswith(('/mean', '/var')) else 'params/') + path


@pytest.mark.parametrize('prefix', ['', 'state/'])
@pytest.mark.parametrize('layout', [lambda p: p, linen, lambda p: f'params/{p}'])
def test_own_paths_are_found_below_any_prefix(layout, prefix):
    arrays = own(lambda p: prefix + layout(p), model())
    table = choose_table(checkpoint(arrays), [rule_table()], model())
    found = load(model(), arrays, table, head='keep')
    assert {o.status for o in found.origins.values()} == {'loaded'}
    assert {path: o.key for path, o in found.origins.items()} == {path: prefix + layout(path) for path in model()}
    assert not found.ignored
    new = load(model(classes=3), arrays, table, head='new')
    assert {i.key for i in new.ignored} == {prefix + layout(f'heads/main/{leaf}') for leaf in ('kernel', 'bias')}


@pytest.mark.parametrize('prefix', ['', 'state/'])
def test_parameters_are_meant_not_their_moments(prefix):
    """A training state whose optimizer repeats every name; without statistics nothing but the prefix tells them apart."""
    targets = {path: t for path, t in model().items() if not path.endswith('mean')}
    tops = ('m', f'{prefix}opt_state/0/mu', f'{prefix}params')
    arrays = {f'{top}/{p}': np.zeros(t.shape) for top in tops for p, t in targets.items()} | {f'{prefix}step': np.array(3)}
    table = choose_table(checkpoint(arrays), [], targets)
    found = load(targets, arrays, table, head='keep', ignore=['m/.*'])
    assert all(o.key.startswith(f'{prefix}params/') for o in found.origins.values())


def test_a_native_checkpoint_of_another_size_is_native_and_told():
    arrays = own(linen, model(blocks=3))
    table = choose_table(checkpoint(arrays), [rule_table()], model())
    assert '4 unexpected' in refused(model(), arrays, table)
    assert '4 missing' in refused(model(blocks=4), arrays, choose_table(checkpoint(arrays), [], model(blocks=4)))


@pytest.mark.parametrize('prefix', ['', 'module.', 'state/model/'])
def test_the_first_table_that_fits_is_chosen_below_a_prefix(prefix):
    arrays = {prefix + key: x for key, x in torch_like().items()}
    fake = checkpoint(arrays)
    other = rule_table(name='other', detect=('stem.weight', 'no.such'))
    assert not fits(other, fake)
    assert fits(rule_table(), fake)
    table = choose_table(fake, [other, rule_table(), rule_table(name='late')], model())
    assert (table.name, table.prefix) == ('torch-like', prefix)
    assert table == rule_table()  # so that a family recognises its own weights
    found = load(model(), arrays, table)
    assert found.origins['backbone/stem/kernel'].key == f'{prefix}stem.weight'
    assert {i.key for i in found.ignored} == {prefix + key for key in ('layer.0.bn.num', 'layer.1.bn.num', 'fc.weight', 'fc.bias')}
    mine = as_rules([('heads/main/bias', f'{prefix}fc.bias')])  # a user writes the keys that `jtl inspect` shows
    assert load(model(), arrays, table, rules=mine).origins['heads/main/bias'].key == f'{prefix}fc.bias'


def test_a_prefix_ends_at_a_name():
    assert not fits(rule_table(detect=('weight',)), checkpoint({'myweight': filled(1)}))
    assert fits(rule_table(detect=('weight',)), checkpoint({'my.weight': filled(1)}))
    assert not fits(rule_table(detect=()), checkpoint({'a': filled(1)}))
    assert fits(rule_table(detect=('weight',), shapes=(('weight', (1,)),)), checkpoint({'my.weight': filled(1)}))
    assert not fits(rule_table(detect=('weight',), shapes=(('weight', (2,)),)), checkpoint({'my.weight': filled(1)}))
    assert not fits(rule_table(detect=('weight',), shapes=(('bias', (1,)),)), checkpoint({'my.weight': filled(1)}))


def test_an_unknown_layout_shows_both_sides_unless_rules_are_given():
    fake = checkpoint({f'mystery.{i}': filled(1) for i in range(6)})
    with pytest.raises(CheckpointError) as error:
        choose_table(fake, [rule_table()], model())
    for part in (
        'weights.pth (fake)',
        'mystery.0, mystery.1',
        '6 in all',
        'backbone/stem/kernel',
        'torch-like',
        'stem.weight',
        'config.init_rules',
    ):
        assert part in str(error.value)
    rules = as_rules([(r'x/(\d)', r'mystery.\1')])
    table = choose_table(fake, [rule_table()], ['x/1'], rules)
    found = adapt({f'x/{i}': spec(1) for i in range(6)}, {'': Source(fake, table)}, rules=rules)
    assert found.origins['x/3'].key == 'mystery.3'


# ---- several sources


def test_paths_belong_to_the_longest_subtree_that_holds_them():
    paths = ['backbone/image/a', 'backbone/imagery/a', 'heads/main/b', 'heads/mainly/b']
    assert split_targets(paths, ['backbone', 'backbone/image', 'heads/main']) == {
        'backbone/image/a': 'backbone/image',
        'backbone/imagery/a': 'backbone',
        'heads/main/b': 'heads/main',
        'heads/mainly/b': None,
    }
    assert set(split_targets(paths, ['']).values()) == {''}
    with pytest.raises(UserError, match=r"nothing below 'backbone/imag'. Did you mean 'backbone/image'"):
        split_targets(paths, ['backbone/imag'])


def test_each_subtree_has_its_source_and_the_rest_starts_new():
    targets = model()
    first, second = own(linen, targets), own(lambda p: p, targets)
    first = {key: x + 1 for key, x in first.items()}
    second = {key: x + 2 for key, x in second.items()}
    sources = {
        name: Source(c, choose_table(c, [], targets))
        for name, c in {'backbone': checkpoint(first), 'heads/main': checkpoint(second)}.items()
    }
    found = adapt(targets, sources)
    for path, origin in found.origins.items():
        assert origin.subtree == ('heads/main' if path.startswith('heads') else 'backbone')
        assert (read(origin, found.sources[origin.subtree].checkpoint) == (2 if path.startswith('heads') else 1)).all()
    only = adapt(targets, {'backbone': sources['backbone']})
    assert {p for p, o in only.origins.items() if o.status == 'new'} == {'heads/main/kernel', 'heads/main/bias'}
    other = own(lambda p: p.replace('main', 'other'), targets)  # heads of another name are not wanted either
    adapt(targets, {'backbone': Source(checkpoint(other), choose_table(checkpoint(other), [], targets))}, head='keep')
    part = adapt(targets, {'backbone/block_1': sources['backbone']})
    assert {p for p, o in part.origins.items() if o.status != 'new'} == {p for p in targets if 'block_1/' in p}


def test_a_user_rule_counts_over_all_sources():
    targets, arrays = model(), torch_like()
    sources = {'backbone': Source(checkpoint(arrays), rule_table()), 'heads': Source(checkpoint(arrays), rule_table())}
    found = adapt(targets, sources, rules=as_rules([('heads/main/bias', None)]), ignore=['fc.bias'])
    assert found.origins['heads/main/bias'].status == 'new'
    assert found.origins['heads/main/kernel'].key == 'fc.weight'
    with pytest.raises(CheckpointError, match=r'no source in config.init_from holds this path'):
        adapt(targets, {'backbone': sources['backbone']}, rules=as_rules([('heads/main/bias', 'fc.bias')]))
