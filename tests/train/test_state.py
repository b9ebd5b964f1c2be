import dataclasses

import jax
import numpy as np
import tiny

from jtl.opt_state import pack
from jtl.train.state import anchored, begin, merged, updated_stats

BATCH_NORM = {'batch_norm': True}
HEAD = {'heads/main/output/kernel', 'heads/main/output/bias'}


def buffers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def loaded(e):
    """The experiment as if its backbone came from a checkpoint."""
    leaves = tuple(dataclasses.replace(leaf, status='loaded') if leaf.path.startswith('backbone/') else leaf for leaf in e.plan.leaves)
    return dataclasses.replace(e, plan=dataclasses.replace(e.plan, leaves=leaves))


def test_a_leaf_is_trainable_updated_or_frozen():
    e = tiny.experiment(BATCH_NORM, tune=tiny.recipe('last'), batch_norm=(('backbone/conv_0', 'batch'), ('backbone/conv_1', 'batch_fixed')))
    leaves = tiny.leaves_of(e)
    frozen, state = tiny.start(e, leaves=leaves)
    assert set(state.params) == {*HEAD, 'backbone/dense_0/dense/kernel', 'backbone/dense_0/dense/bias'}
    assert set(state.stats) == set(updated_stats(e.net, e.plan.phases[0])) == {'backbone/conv_0/bn/mean', 'backbone/conv_0/bn/var'}
    parts = [frozen.leaves, state.params, state.stats]
    assert sum(map(len, parts)) == len(e.net.shapes) == len(set().union(*parts))
    whole = merged(frozen, state)
    assert all(np.array_equal(whole[path], leaves[path]) for path in e.net.shapes)
    assert (state.ema, frozen.anchors) == ({}, {})
    assert (state.step, state.bad_step, state.window.steps) == (0, -1, 0)
    assert np.array_equal(state.key, jax.random.key_data(jax.random.key(e.config['seed'])))


def test_no_two_leaves_share_a_buffer():
    """Donating one buffer twice, or one that is also read, is an error or worse."""
    e = loaded(
        tiny.experiment(
            BATCH_NORM, tune=tiny.recipe('lp_ft'), penalties=(('.*kernel', ('l2sp', 0.1)),), optimizer={'name': 'adamw', 'ema': 0.9}
        )
    )
    leaves = tiny.leaves_of(e)  # the caller's own, also given as the base
    frozen, state, _ = begin(e.net, e.plan, 0, leaves, leaves, 0, e.placement)
    frozen, state, _ = begin(e.net, e.plan, 1, merged(frozen, state), merged(frozen, state), 0, e.placement, state)
    held = buffers((frozen, state))
    assert len(set(held)) == len(held)
    assert set(frozen.anchors) == {'backbone/conv_0/conv/kernel', 'backbone/conv_1/conv/kernel', 'backbone/dense_0/dense/kernel'}

    step = tiny.step_of(e, 1)
    after = jax.block_until_ready(step(frozen, state, tiny.on_mesh(e, tiny.batch(e))))
    jax.block_until_ready(step(frozen, after, tiny.on_mesh(e, tiny.batch(e))))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(frozen))


def test_only_loaded_leaves_are_anchors():
    e = tiny.experiment(penalties=(('backbone/conv_.*', ('l2sp', 0.1)), ('backbone/.*', ('l2', 0.1)), ('heads/.*', ('l2sp', 0.1))))
    (phase,) = e.plan.phases
    assert anchored(e.plan, phase) == []  # all are new
    assert sorted(anchored(loaded(e).plan, phase)) == [f'backbone/conv_{k}/conv/{leaf}' for k in (0, 1) for leaf in ('bias', 'kernel')]


def test_moments_move_to_the_next_phase_and_averages_start_anew():
    e = tiny.experiment(tune=tiny.recipe('lp_ft'), optimizer={'name': 'adamw', 'ema': 0.9, 'lr': 0.01})
    frozen, (_, before) = tiny.train(e, 2)
    last = jax.device_put(before, e.placement.whole)
    leaves = merged(frozen, last)
    frozen, state, notes = begin(e.net, e.plan, 1, leaves, {}, e.config['seed'], e.placement, last)

    old = pack(before.opt_state, e.plan.phases[0].labels)
    new = pack(tiny.numpy(state.opt_state), e.plan.phases[1].labels)
    for slot in ('mu', 'nu'):
        for path, moment in new['moments'][slot].items():
            assert np.array_equal(moment, old['moments'][slot][path] if path in HEAD else np.zeros_like(moment)), path
        assert np.any(new['moments'][slot]['heads/main/output/kernel'])
    counts = new['counts']
    assert counts['head@0/adam/count'] == 2 and counts['backbone@1/adam/count'] == 0
    assert {int(count) for place, count in counts.items() if '/rate/' in place} == {0}
    assert notes == ()

    assert set(state.ema) == set(state.params) == set(e.net.params)
    assert all(np.array_equal(state.ema[path], leaves[path]) for path in state.params)
    assert (state.step, state.bad_step, state.window.steps) == (0, -1, 0)
    assert state.step.sharding == e.placement.whole
    assert np.array_equal(state.params['heads/main/output/kernel'], before.params['heads/main/output/kernel'])


def test_what_stops_training_is_dropped_and_said():
    phases = ({'steps': 2, 'train': (('.*', 'all'),)}, {'steps': 2, 'train': (('heads/.*', 'all'),)})
    e = tiny.experiment(tune={'recipe': ''}, phases=phases, optimizer={'momentum': 0.9})
    frozen, state = tiny.start(e)
    frozen, state, notes = begin(e.net, e.plan, 1, merged(frozen, state), {}, 0, e.placement, state)
    assert set(state.params) == HEAD and len(frozen.leaves) == len(e.net.shapes) - 2
    assert len(notes) == 1 and notes[0].startswith('Optimizer state dropped, since they no longer train: backbone/conv_0/conv/bias')


def test_merged_takes_averages_where_there_are_any():
    e = tiny.experiment(tune=tiny.recipe('probe'), optimizer={'ema': 0.9})
    frozen, (state,) = tiny.train(e)
    averaged = merged(frozen, state, averaged=True)
    assert {path for path in averaged if not np.array_equal(averaged[path], merged(frozen, state)[path])} == HEAD
    assert all(np.array_equal(averaged[path], state.ema[path]) for path in HEAD)
