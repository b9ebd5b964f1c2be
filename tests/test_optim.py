import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.errors import UserError
from jtl.opt_state import pack, state_bytes
from jtl.optim import DECAY_RULES, Group, defaults, ema_update, group_from, learning_rates, make_optimizer
from jtl.rules import resolve

RNG = np.random.default_rng(0)
SHAPES = {
    'backbone/a/kernel': (3, 4),
    'backbone/a/bias': (4,),
    'backbone/norm/scale': (4,),
    'heads/main/kernel': (4, 2),
    'heads/main/bias': (2,),
}
PARAMS = {path: RNG.normal(size=shape) for path, shape in SHAPES.items()}
STEPS = 6
GRADS = [{path: RNG.normal(size=shape) * (1 + t) for path, shape in SHAPES.items()} for t in range(STEPS)]
LABELS = {path: path.split('/')[0] + '@0' for path in SHAPES}
DECAY = {'backbone/a/kernel': 1.0, 'backbone/a/bias': 0.0, 'backbone/norm/scale': 0.0, 'heads/main/kernel': 0.5, 'heads/main/bias': 0.0}


def as_jax(tree):
    return {path: jnp.asarray(leaf, jnp.float32) for path, leaf in tree.items()}


def run(groups, clip=0.0, params=PARAMS, grads=GRADS, labels=LABELS):
    """Parameters after each step."""
    tx = make_optimizer(groups, labels, DECAY, len(grads), clip)
    params, seen = as_jax(params), []
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(as_jax(g), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def by_hand(groups, clip, rate):
    """The same in numpy, leaf by leaf, from the papers' algorithms; `rate(group, t)` is written by each test."""
    params = {path: leaf.copy() for path, leaf in PARAMS.items()}
    m = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    v = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    seen = []
    for t, grads in enumerate(GRADS):
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        assert not clip or norm > clip  # or the clip is not tried
        for path, w in params.items():
            group, g = groups[LABELS[path]], grads[path] * (clip / norm if clip else 1)
            d = group.weight_decay * DECAY[path]
            if group.optimizer == 'sgd':
                g = g + d * w
                m[path] = group.momentum * m[path] + g
                u = g + group.momentum * m[path] if group.nesterov else m[path]
            else:
                m[path] = group.b1 * m[path] + (1 - group.b1) * g
                v[path] = group.b2 * v[path] + (1 - group.b2) * g**2
                u = (m[path] / (1 - group.b1 ** (t + 1))) / (np.sqrt(v[path] / (1 - group.b2 ** (t + 1))) + group.eps)
                u = u + d * w
                if group.optimizer == 'lamb':
                    u = u * np.linalg.norm(w) / np.linalg.norm(u)
            params[path] = w - rate(group, t) * u
        seen.append(dict(params))
    return seen


@pytest.mark.parametrize('clip', [0.0, 1.5])
@pytest.mark.parametrize(
    'backbone',
    [
        {'name': 'sgd', 'momentum': 0.9, 'weight_decay': 0.1},
        {'name': 'sgd', 'momentum': 0.8, 'nesterov': True, 'weight_decay': 0.1},
        {'name': 'sgd', 'momentum': 0.0},
        {'name': 'adam', 'b1': 0.8, 'b2': 0.95, 'eps': 1e-3},
        {'name': 'adamw', 'weight_decay': 0.1},
        {'name': 'lamb', 'weight_decay': 0.1, 'eps': 1e-6},
    ],
)
def test_updates_recomputed_by_hand_with_two_groups(backbone, clip):
    groups = {
        'backbone@0': group_from(defaults(), {'lr': 0.02, 'schedule': 'constant', **backbone}, 'backbone'),
        'heads@0': group_from(defaults(), {'name': 'adamw', 'lr': 0.1, 'schedule': 'linear', 'weight_decay': 0.2}, 'head'),
    }
    got = run(groups, clip)
    expected = by_hand(groups, clip, lambda group, t: 0.1 * (1 - t / STEPS) if group.name == 'head' else 0.02)
    for a, b in zip(got, expected, strict=True):
        for path in SHAPES:
            np.testing.assert_allclose(a[path], b[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_lamb_moves_a_zero_leaf_by_the_plain_step():
    groups = dict.fromkeys(LABELS.values(), Group('all', 'lamb', lr=0.1, schedule='constant'))
    zero = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    after = run(groups, params=zero, grads=GRADS[:1])[0]
    for path, leaf in after.items():
        np.testing.assert_allclose(leaf, -0.1 * np.sign(GRADS[0][path]), rtol=1e-4)


def test_frozen_leaves_own_no_state_and_sgd_without_momentum_none_at_all():
    trainable = {path: leaf for path, leaf in as_jax(PARAMS).items() if path.startswith('heads/')}
    labels = {path: LABELS[path] for path in trainable}
    for optimizer, momentum, slots in (('adamw', 0.9, 2), ('lamb', 0.9, 2), ('sgd', 0.9, 1), ('sgd', 0.0, 0)):
        groups = {'heads@0': Group('head', optimizer, momentum=momentum), 'backbone@0': Group('backbone')}
        state = jax.eval_shape(make_optimizer(groups, labels, DECAY, 10, clip=1.0).init, trainable)
        assert state_bytes(state) == slots * 4 * (4 * 2 + 2)
        packed = pack(state, trainable)
        assert {path for leaves in packed['moments'].values() for path in leaves} == (set(trainable) if slots else set())
        assert all(place.startswith('heads@0/') for place in packed['counts'])


def test_schedules_start_again_with_each_optimizer_and_differ_between_groups():
    groups = {
        'backbone@0': Group('backbone', lr=1.0, schedule='cosine', warmup=2),
        'backbone@1': Group('backbone', lr=1.0, schedule='cosine', warmup=2),
        'head@1': Group('head', lr=0.1, schedule='constant'),
    }
    rates = learning_rates(groups, 10, 2)
    assert set(rates) == {'backbone', 'head'}
    assert rates['backbone'] == pytest.approx(1.0) and rates['head'] == pytest.approx(0.1)
    assert float(jax.jit(lambda t: learning_rates(groups, 10, t))(6)['backbone']) == pytest.approx(0.5)


def test_the_default_decay_spares_biases_and_norms():
    paths = [*SHAPES, 'shared/token/embedding', 'kernel', 'backbone/kernel/bias']
    assert {path for path, factor in resolve(DECAY_RULES, paths).values.items() if factor == 1.0} == {
        'backbone/a/kernel',
        'heads/main/kernel',
        'shared/token/embedding',
        'kernel',
    }
    assert set(resolve(DECAY_RULES, paths).values.values()) == {0.0, 1.0}


def test_ema_follows_from_the_start_and_then_keeps_the_decay():
    ema = as_jax(PARAMS)
    target = {path: leaf + 1 for path, leaf in ema.items()}
    for step, d in ((0, 0.1), (8, 0.5), (10_000, 0.99)):
        for path, leaf in jax.jit(ema_update)(ema, target, 0.99, step).items():
            np.testing.assert_allclose(leaf, ema[path] + (1 - d), rtol=1e-5, atol=1e-6)


def test_group_from_takes_the_section_then_the_overrides():
    group = group_from({**defaults(), 'lr': 0.3, 'clip': 1.0, 'ema': 0.99, 'milestones': [0.5]}, {'weight_decay': 0.1}, 'head')
    assert group == Group('head', lr=0.3, weight_decay=0.1, milestones=(0.5,))
    assert defaults()['name'] == 'adamw' and all(type(defaults()[f]) is float for f in ('warmup', 'final', 'weight_decay', 'clip', 'ema'))


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'weight_deca': 0.1}, "no field 'weight_deca'. Did you mean 'weight_decay'"),
        ({'zzzzz': 0.1}, "no field 'zzzzz'. Known: name, lr"),
        ({'clip': 1.0}, 'cannot differ between groups'),
        ({'lr': -1.0}, r"optimizer \(group 'head'\).lr is -1.0; expected a finite number >= 0"),
        ({'lr': float('nan')}, 'lr is nan'),
        ({'lr': '0.1'}, "lr is '0.1'"),
        ({'name': 'adamW'}, "no optimizer 'adamW'. Did you mean 'adamw'"),
        ({'name': 'adam', 'weight_decay': 0.1}, 'use adamw, or a penalty rule'),
        ({'name': 'sgd', 'nesterov': True, 'momentum': 0.0}, 'nesterov needs a momentum'),
        ({'nesterov': 1}, 'expected True or False'),
        ({'momentum': 1.0}, r'momentum is 1.0; expected a finite number in \[0, 1\)'),
        ({'eps': 0.0}, 'eps is 0.0'),
        ({'schedule': 'cosin'}, "Did you mean 'cosine'"),
        ({'warmup': 2.5}, 'warmup is 2.5'),
        ({'milestones': 0.5}, 'milestones is 0.5'),
    ],
)
def test_wrong_settings_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        group_from(defaults(), overrides, 'head')


def test_wrong_clip_and_ema_in_the_section_are_refused():
    for field, value in (('clip', -1.0), ('ema', 1.0)):
        with pytest.raises(UserError, match=f'optimizer.{field} is {value}'):
            group_from({**defaults(), field: value}, {}, 'head')
    with pytest.raises(UserError, match='warmup is 20 steps, but the phase has only 10'):
        make_optimizer({'backbone@0': Group('backbone', warmup=20)}, {'w': 'backbone@0'}, {}, 10)
