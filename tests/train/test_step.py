import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jtl.train.step import make_predict, micro_batches

BATCH_NORM = {'batch_norm': True, 'bn_momentum': 0.9}


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def forward(leaves, host, norms=()):
    """The net of `tiny.experiment` by hand: logits, and the batch statistics that each convolution's BatchNorm saw.

    `norms`: for conv_0 and conv_1, whether BatchNorm normalises by the batch; empty without BatchNorm.
    """
    x, seen = (host['image'] - np.float32(127.5)) / np.float32(127.5), {}
    for k, name in enumerate(('backbone/conv_0', 'backbone/conv_1')):
        x = conv(x, leaves[f'{name}/conv/kernel'])
        if norms:
            seen[f'{name}/bn/mean'], seen[f'{name}/bn/var'] = x.mean((0, 1, 2)), x.var((0, 1, 2))
            used = seen if norms[k] else leaves
            x = (x - used[f'{name}/bn/mean']) / jnp.sqrt(used[f'{name}/bn/var'] + 1e-5)
            x = x * leaves[f'{name}/bn/scale'] + leaves[f'{name}/bn/bias']
        else:
            x = x + leaves[f'{name}/conv/bias']
        n, h, w, c = x.shape
        x = jax.nn.relu(x).reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    x = jax.nn.relu(x.reshape(len(x), -1) @ leaves['backbone/dense_0/dense/kernel'] + leaves['backbone/dense_0/dense/bias'])
    return x @ leaves['heads/main/output/kernel'] + leaves['heads/main/output/bias'], seen


def mean_loss(logits, labels):
    return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()


def close(found, wanted, **tolerance):
    assert set(found) == set(wanted)
    for path in wanted:
        np.testing.assert_allclose(found[path], wanted[path], **{'rtol': 1e-5, 'atol': 1e-6, **tolerance}, err_msg=path)


def test_two_steps_by_hand():
    """Clip over the trainables alone, L2-SP towards loaded values and towards zero for new ones, momentum."""
    penalties = (('backbone/.*', ('l2sp', 0.5)), ('heads/main/output/kernel', ('l2sp', 0.3)))
    e = tiny.experiment(
        tune=tiny.recipe('last', head_lr=0.2),
        penalties=penalties,
        optimizer={'momentum': 0.9, 'clip': 0.5, 'lr': 0.1, 'weight_decay': 0.01},
    )
    loaded = tuple(dataclasses.replace(leaf, status='loaded') if leaf.path.startswith('backbone/') else leaf for leaf in e.plan.leaves)
    e = dataclasses.replace(e, plan=dataclasses.replace(e.plan, leaves=loaded))
    base = tiny.numpy(tiny.leaves_of(e))
    _, states = tiny.train(e, 2)

    dense, head = ('backbone/dense_0/dense/kernel', 'backbone/dense_0/dense/bias'), ('heads/main/output/kernel', 'heads/main/output/bias')
    params = {path: base[path] for path in (*dense, *head)}
    trace = dict.fromkeys(params, 0.0)
    losses, norms, extras = [], [], []
    for k, state in enumerate(states):
        host = tiny.batch(e, k)
        loss, grads = jax.value_and_grad(lambda p, host=host: mean_loss(forward({**base, **p}, host)[0], host['label']))(params)
        pulls = {path: (0.5 * (params[path] - base[path])) for path in dense} | {head[0]: 0.3 * params[head[0]]}
        extra = sum(0.25 * ((params[path] - base[path]) ** 2).sum() for path in dense) + 0.15 * (params[head[0]] ** 2).sum()
        grads = {path: grads[path] + pulls.get(path, 0.0) for path in params}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        assert norm > 0.5  # the clip acts
        for path in params:
            decayed = grads[path] * 0.5 / norm + (0.01 * params[path] if path.endswith('kernel') else 0.0)
            trace[path] = 0.9 * trace[path] + decayed
            params[path] = params[path] - (0.2 if path in head else 0.1) * trace[path]
        losses.append(loss), norms.append(norm), extras.append(extra)
        close(state.params, params)
    np.testing.assert_allclose(
        [states[1].window.loss, states[1].window.grad_norm, states[1].window.penalty], [sum(losses), sum(norms), sum(extras)], rtol=1e-5
    )
    assert (states[1].window.steps, states[1].step, states[1].bad_step) == (2, 2, -1)


@pytest.mark.parametrize(
    ('recipe', 'rules', 'norms', 'updated'),
    [
        ('last', (), (False, False), ()),  # frozen: running statistics, which stay
        ('last', (('backbone/conv_0', 'batch_fixed'), ('backbone/conv_1', 'batch')), (True, True), ('conv_1',)),
        ('full', (('backbone/conv_0', 'running'),), (False, True), ('conv_1',)),
    ],
)
def test_batch_norm_switches(recipe, rules, norms, updated):
    e = tiny.experiment(BATCH_NORM, tune=tiny.recipe(recipe), batch_norm=rules)
    base = tiny.numpy(tiny.leaves_of(e))
    frozen, (state,) = tiny.train(e)
    logits, seen = forward(base, tiny.batch(e), norms)
    np.testing.assert_allclose(state.window.loss, mean_loss(logits, tiny.batch(e)['label']), rtol=1e-5)

    changed = [path for path in e.net.stats if path.split('/')[1] in updated]
    close(state.stats, {path: 0.9 * base[path] + 0.1 * seen[path] for path in changed})
    for path in set(e.net.stats) - set(changed):
        assert np.array_equal(frozen.leaves[path], base[path]), path


def test_a_frozen_stage_is_deterministic_whatever_the_head_does():
    """Same batch, parameters that stand still: with dropout in a frozen stage the losses of all steps are equal, else they differ."""
    host = tiny.batch(tiny.experiment())

    def losses(recipe, **task):
        e = tiny.experiment(
            {'dropout': 0.5}, tune=tiny.recipe(recipe), optimizer={'lr': 0.0}, task={'name': 'classification', 'zero_init': False, **task}
        )
        _, states = tiny.train(e, 3, host=host)
        return np.diff([0.0, *(s.window.loss for s in states)])

    still = losses('probe')
    np.testing.assert_allclose(still, still[0], rtol=1e-6)
    assert np.ptp(losses('probe', dropout=0.5)) > 1e-3  # the head's own dropout is on
    assert np.ptp(losses('last')) > 1e-3


def test_a_key_belongs_to_seed_phase_and_step():
    e = tiny.experiment({'dropout': 0.5}, tune=tiny.recipe('lp_ft'))
    e = dataclasses.replace(e, plan=dataclasses.replace(e.plan, phases=(e.plan.phases[1],) * 2))  # twice the same phase
    host, found = tiny.batch(e), []
    for index, seeds in ((0, (0, 0, 1)), (1, (0,))):
        step = tiny.compile_fast(tiny.step_of(e, index), *tiny.start_shapes(e, index), tiny.batch_shapes(e))
        for seed in seeds:
            frozen, state = tiny.start(dataclasses.replace(e, config={**e.config, 'seed': seed}), index, tiny.leaves_of(e))
            found.append(float(step(frozen, state, tiny.on_mesh(e, host)).window.loss))
    assert found[0] == found[1]
    assert len(set(found)) == 3  # another seed, another phase; another step is in the tests around this one


def test_augmentation_changes_with_the_step_and_prediction_has_none():
    e = tiny.experiment(augment={'flip': True, 'crop': 1.0}, optimizer={'lr': 0.0})
    host = tiny.batch(e)
    _, states = tiny.train(e, 3, host=host)
    assert np.ptp(np.diff([0.0, *(s.window.loss for s in states)])) > 1e-4
    leaves = tiny.leaves_of(e)
    logits, losses = make_predict(e.net, e.tasks, e.prepare)(leaves, host)['main']
    by_hand, _ = forward(leaves, host)
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses.mean(), mean_loss(by_hand, host['label']), rtol=1e-5)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, micro = (tiny.experiment(accumulate=k, optimizer={'clip': 1.0, 'momentum': 0.9}) for k in (1, 4))
    (_, a), (_, b) = tiny.train(whole, 2), tiny.train(micro, 2)
    close(b[1].params, a[1].params, atol=1e-6, rtol=0)
    np.testing.assert_allclose(jax.tree.leaves(b[1].window), jax.tree.leaves(a[1].window), rtol=1e-6)


def test_accumulated_batches_update_batch_norm_one_after_the_other():
    e = tiny.experiment(BATCH_NORM, accumulate=2, tune=tiny.recipe('full'))
    base = tiny.numpy(tiny.leaves_of(e))
    _, (state,) = tiny.train(e)
    stats = {path: base[path] for path in e.net.stats}
    for k in range(2):
        host = {name: value[k::2] for name, value in tiny.batch(e).items()}
        seen = forward(base, host, (True, True))[1]
        stats = {path: 0.9 * stats[path] + 0.1 * seen[path] for path in stats}
    close(state.stats, stats)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(parts=st.integers(1, 4), devices=st.integers(1, 4), each=st.integers(1, 3))
def test_micro_batches_take_each_row_once_and_leave_it_on_its_device(parts, devices, each):
    size = parts * devices * each
    micro = np.asarray(micro_batches({'x': np.arange(2 * size).reshape(size, 2)}, parts)['x'])
    assert micro.shape == (parts, size // parts, 2)
    rows = micro[..., 0] // 2
    assert sorted(rows.flat) == list(range(size))
    of_device = np.arange(size) // (size // devices)  # a batch lies in contiguous blocks
    assert np.array_equal(of_device[rows], np.broadcast_to(np.arange(size // parts) // each, rows.shape))


def test_the_average_follows_the_trainables():
    e = tiny.experiment(tune=tiny.recipe('probe'), optimizer={'ema': 0.15})
    _, states = tiny.train(e, 3)
    average = {path: np.asarray(leaf) for path, leaf in tiny.leaves_of(e).items() if path.startswith('heads/')}
    for t, state in enumerate(states):
        d = min(0.15, (1 + t) / (10 + t))  # 0.1, then 0.15
        average = {path: d * average[path] + (1 - d) * state.params[path] for path in average}
        close(state.ema, average)
    assert all(not np.array_equal(a.ema['heads/main/output/bias'], b.ema['heads/main/output/bias']) for a, b in pairwise(states))


def test_the_first_step_that_is_not_finite_is_kept():
    e = tiny.experiment(tune=tiny.recipe('probe'), optimizer={'lr': 3e38})  # the first update overflows
    _, states = tiny.train(e, 4)
    assert [int(state.bad_step) for state in states] == [0, 0, 0, 0]
    _, states = tiny.train(tiny.experiment(tune=tiny.recipe('probe'), optimizer={'lr': 1e-2}), 2)
    assert [int(state.bad_step) for state in states] == [-1, -1]


@pytest.mark.parametrize('names', [('flip',), ('flip', 'crops')])
def test_views_are_averaged_by_the_task(names):
    e = tiny.experiment(tta=names)
    assert e.views.size == (8, 8) and e.views.crop == (0.875 if 'crops' in names else None)
    leaves, side = tiny.leaves_of(e), 9 if 'crops' in names else 8
    host = {**tiny.batch(e), 'image': np.random.default_rng(5).integers(0, 256, (16, side, side, 1), np.uint8)}
    logits, losses = make_predict(e.net, e.tasks, e.prepare, e.views)(leaves, host)['main']
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)] if 'crops' in names else [(0, 0)]
    views = [host['image'][:, y : y + 8, x : x + 8, :] for y, x in places]
    p = np.mean([jax.nn.softmax(forward(leaves, {'image': v})[0]) for view in views for v in (view, view[:, :, ::-1])], axis=0)
    np.testing.assert_allclose(jax.nn.softmax(logits), p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses, -np.log(p[np.arange(16), host['label']]), rtol=1e-4, atol=1e-5)
