import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.base import CheckpointError
from jtl.opt_state import map_state, migrate, pack, state_bytes, unpack
from jtl.optim import Group, make_optimizer

SHAPES = {'backbone/a/kernel': (2, 3), 'backbone/a/bias': (3,), 'backbone/b/kernel': (3, 3), 'heads/main/kernel': (3, 2)}
ADAM, SGD = Group('g', 'adamw', lr=1e-3, schedule='constant'), Group('g', 'sgd', lr=1e-3, schedule='constant')


def params_of(paths, seed=0):
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=SHAPES[path]), jnp.float32) for path in paths}


def optimizer(labels, groups, steps=100, clip=0.0):
    return make_optimizer(groups, labels, dict.fromkeys(labels, 0.0), steps, clip)


def train(tx, params, steps, state=None):
    """The state after some steps on constant gradients, and the last updates."""
    grads = {path: jnp.full(leaf.shape, 0.5) for path, leaf in params.items()}
    state = tx.init(params) if state is None else state
    one = jax.jit(lambda _, carry: tx.update(grads, carry[1], params))
    return jax.lax.fori_loop(0, steps, one, (grads, state))[::-1]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


group = st.sampled_from(
    [Group('g', 'sgd', momentum=0.0), Group('g', 'sgd'), Group('g', 'adam'), Group('g', 'adamw', weight_decay=0.1), Group('g', 'lamb')]
)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    placed=st.dictionaries(st.sampled_from(sorted(SHAPES)), st.sampled_from(['a@0', 'a@1', 'x/y@0']), min_size=1),
    groups=st.fixed_dictionaries({'a@0': group, 'a@1': group, 'x/y@0': group}),
    clip=st.sampled_from([0.0, 1.0]),
)
def test_unpack_is_the_exact_inverse_of_pack(placed, groups, clip):
    params = params_of(placed)
    tx = optimizer(placed, groups, clip=clip)
    state = jax.tree.map(lambda leaf: leaf + jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape) + 1, tx.init(params))
    packed = pack(state, placed)
    template = jax.eval_shape(tx.init, params)
    same(unpack(template, packed), state)
    same(jax.jit(lambda p: unpack(template, p))(packed), state)
    assert set(packed) == {'moments', 'counts'}
    assert sum(np.size(leaf) * 4 for leaf in jax.tree.leaves(packed['moments'])) == state_bytes(state) == state_bytes(template)
    assert all(path in placed for leaves in packed['moments'].values() for path in leaves)
    assert len(jax.tree.leaves(packed)) == len(jax.tree.leaves(state))


def test_the_packed_form_survives_orbax(tmp_path):
    import orbax.checkpoint as ocp

    labels = dict(zip(SHAPES, ('a@0', 'b@0', 'a@0', 'b@0'), strict=True))
    params = params_of(SHAPES)
    for groups in ({'a@0': ADAM, 'b@0': SGD}, dict.fromkeys(('a@0', 'b@0'), Group('g', 'sgd', momentum=0.0))):
        tx = optimizer(labels, groups, clip=1.0)
        state, _ = train(tx, params, 3)
        place = tmp_path / f'{state_bytes(state)}'
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(place, pack(state, labels))
            restored = checkpointer.restore(place)
        same(unpack(jax.eval_shape(tx.init, params), restored), state)


def test_the_packed_form_names_slots_paths_and_places():
    labels = {'backbone/a/kernel': 'body@1', 'heads/main/kernel': 'head@0'}
    packed = pack(optimizer(labels, {'body@1': ADAM, 'head@0': SGD}).init(params_of(labels)), labels)
    assert {slot: set(leaves) for slot, leaves in packed['moments'].items()} == {
        'mu': {'backbone/a/kernel'},
        'nu': {'backbone/a/kernel'},
        'trace': {'heads/main/kernel'},
    }
    assert set(packed['counts']) == {'body@1/adam/count', 'body@1/rate/count', 'head@0/rate/count'}


def test_plain_optax_states_pack_too():
    params = params_of(SHAPES)
    state = optax.adam(1e-3).init(params)
    same(unpack(jax.eval_shape(optax.adam(1e-3).init, params), pack(state, params)), state)
    with pytest.raises(ValueError, match='not among the 1 trainable paths'):
        pack(state, ['heads/main/kernel'])


def test_unpack_says_what_is_missing_extra_or_of_another_shape():
    labels = dict.fromkeys(SHAPES, 'a@0')
    params = params_of(SHAPES)
    template = jax.eval_shape(optimizer(labels, {'a@0': ADAM}).init, params)
    packed = pack(optimizer(labels, {'a@0': ADAM}).init(params), labels)
    lost = {**packed['moments']['mu']}
    del lost['heads/main/kernel']
    with pytest.raises(CheckpointError, match=r'is missing heads/main/kernel \(mu\)'):
        unpack(template, {**packed, 'moments': {**packed['moments'], 'mu': lost}})
    with pytest.raises(CheckpointError, match=r'is missing a@0/adam/count \(count\)'):
        unpack(template, {**packed, 'counts': {'a@0/rate/count': jnp.zeros((), jnp.int32)}})
    sgd = pack(optimizer(labels, {'a@0': SGD}).init(params), labels)
    with pytest.raises(CheckpointError, match=r'8 in all.*; it holds .*\(trace\) and 1 more \(4 in all\), which this optimizer'):
        unpack(template, {**sgd, 'counts': packed['counts']})
    short = {**packed['moments']['mu'], 'backbone/a/bias': jnp.zeros(2)}
    with pytest.raises(CheckpointError, match=r'backbone/a/bias \(mu\) as float32\[2\], expected float32\[3\]'):
        unpack(template, {**packed, 'moments': {**packed['moments'], 'mu': short}})
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), packed['moments'])
    with pytest.raises(CheckpointError, match='expected float32'):
        unpack(template, {**packed, 'moments': half})


def test_a_leaf_thawed_late_takes_a_first_step_of_the_size_of_the_rate():
    old_labels = {'heads/main/kernel': 'head@0'}
    new_labels = {'heads/main/kernel': 'head@0', 'backbone/a/kernel': 'body@1'}
    head = params_of(old_labels)
    old, _ = train(optimizer(old_labels, {'head@0': ADAM}, 2000), head, 2000)
    params = params_of(new_labels)
    tx = optimizer(new_labels, {'head@0': ADAM, 'body@1': ADAM})
    state, notes = migrate(pack(old, old_labels), old_labels, tx.init(params), new_labels)
    assert notes == ()
    packed = pack(state, new_labels)
    counts = {place: int(count) for place, count in packed['counts'].items()}
    assert counts == {'head@0/adam/count': 2000, 'body@1/adam/count': 0, 'head@0/rate/count': 0, 'body@1/rate/count': 0}
    _, updates = train(tx, params, 1, state)
    np.testing.assert_allclose(updates['backbone/a/kernel'], -1e-3, rtol=1e-3)
    np.testing.assert_allclose(updates['heads/main/kernel'], -1e-3, rtol=1e-3)


def test_a_phase_that_changes_nothing_goes_on_as_if_there_were_no_border():
    labels = dict(zip(SHAPES, ('a@0', 'b@0', 'a@0', 'b@0'), strict=True))
    params = params_of(SHAPES)
    for groups in ({'a@0': ADAM, 'b@0': SGD}, {'a@0': Group('a', 'lamb', schedule='constant'), 'b@0': ADAM}):
        tx = optimizer(labels, groups)
        through, last = train(tx, params, 7)
        half, _ = train(tx, params, 4)
        moved, notes = migrate(pack(half, labels), labels, tx.init(params), labels)
        resumed, updates = train(tx, params, 3, moved)
        assert notes == ()
        same(updates, last)
        same(pack(resumed, labels)['moments'], pack(through, labels)['moments'])


def test_moments_follow_a_leaf_into_another_group_and_between_adam_adamw_and_lamb():
    params = params_of(SHAPES)
    old_labels = dict.fromkeys(SHAPES, 'all@0')
    new_labels = {path: f'layer_{index}@0' for index, path in enumerate(SHAPES)}
    old, _ = train(optimizer(old_labels, {'all@0': Group('all', 'adam')}), params, 5)
    tx = optimizer(new_labels, {label: Group(label, 'lamb') for label in new_labels.values()})
    state, notes = migrate(pack(old, old_labels), old_labels, tx.init(params), new_labels)
    assert notes == ()
    before, after = pack(old, old_labels), pack(state, new_labels)
    same(after['moments'], before['moments'])
    assert {int(count) for place, count in after['counts'].items() if '/adam/' in place} == {5}
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)  # may be donated


def test_what_is_dropped_is_said_in_few_words():
    params = params_of(SHAPES)
    old_labels = dict.fromkeys(SHAPES, 'all@0')
    old, _ = train(optimizer(old_labels, {'all@0': ADAM}), params, 5)
    kept = {path: 'all@0' for path in SHAPES if path != 'heads/main/kernel'}
    fresh = optimizer(kept, {'all@0': SGD}).init(params_of(kept))
    state, notes = migrate(pack(old, old_labels), old_labels, fresh, kept)
    same(state, fresh)
    assert notes == (
        'Optimizer state dropped, since they no longer train: heads/main/kernel.',
        'mu dropped, since their new optimizer has no such slot: backbone/a/bias, backbone/a/kernel, backbone/b/kernel.',
        'nu dropped, since their new optimizer has no such slot: backbone/a/bias, backbone/a/kernel, backbone/b/kernel.',
    )


def test_a_count_never_meets_moments_of_another_age():
    params = params_of(SHAPES)
    one, other = list(SHAPES)[:2], list(SHAPES)[2:]
    old_labels = {**dict.fromkeys(one, 'a@0'), **dict.fromkeys(other, 'b@0')}
    old, _ = train(optimizer(old_labels, {'a@0': ADAM, 'b@0': SGD}), params, 9)
    # One group of Adam now: half of its leaves bring moments, half do not, and there is one count.
    new_labels = dict.fromkeys(SHAPES, 'a@0')
    tx = optimizer(new_labels, {'a@0': ADAM})
    state, notes = migrate(pack(old, old_labels), old_labels, tx.init(params), new_labels)
    same(state, tx.init(params))
    assert len(notes) == 2 and notes[0].startswith('trace dropped') and notes[1].startswith('Moments start anew')
    # A leaf frozen and thawed again has a label of another phase.
    again = dict.fromkeys(one, 'a@2')
    tx = optimizer(again, {'a@2': ADAM})
    state, notes = migrate(pack(old, old_labels), old_labels, tx.init(params_of(one)), again)
    same(state, tx.init(params_of(one)))
    assert any(note.startswith('Moments start anew') for note in notes)


def test_migrate_works_in_jit_on_shapes_and_keeps_shardings():
    params = params_of(SHAPES)
    first, *rest = SHAPES
    old_labels, new_labels = dict.fromkeys(rest, 'a@0'), {first: 'a@1', **dict.fromkeys(rest, 'b@0')}
    old_tx, tx = optimizer(old_labels, {'a@0': ADAM}), optimizer(new_labels, {'a@1': SGD, 'b@0': ADAM})
    old = pack(train(old_tx, params_of(old_labels), 3)[0], old_labels)
    mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    old['moments'] = jax.device_put(old['moments'], sharding)
    eager, _ = migrate(old, old_labels, tx.init(params), new_labels)
    same(jax.jit(lambda packed, state: migrate(packed, old_labels, state, new_labels)[0])(old, tx.init(params)), eager)
    for path in old_labels:
        assert pack(eager, new_labels)['moments']['mu'][path].sharding == sharding
    as_shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), old)
    shapes, _ = migrate(as_shapes, old_labels, jax.eval_shape(tx.init, params), new_labels)
    assert jax.tree.structure(shapes) == jax.tree.structure(eager)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


def test_map_state_gives_the_shardings_of_a_state():
    params = params_of(SHAPES)
    labels = dict.fromkeys(SHAPES, 'a@0')
    tx = optimizer(labels, {'a@0': ADAM}, clip=1.0)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where = map_state(jax.eval_shape(tx.init, params), lambda slot, path, leaf: device, lambda place, leaf: device)
    same(jax.jit(tx.init, out_shardings=where)(params), tx.init(params))
