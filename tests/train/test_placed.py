"""`config.precision`, `frozen` and `remat` in a run's step, plan and bundle; float16 and its loss scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jtl
from jtl.bundle import load_bundle
from jtl.errors import UserError
from jtl.report.plan_text import plan_text
from jtl.train.loss_scale import PATIENCE, adjusted

HALF = (('backbone/.*', {'compute': 'float16'}), ('heads/.*', {'compute': 'float16'}))


def dtypes(tree):
    return {path: str(leaf.dtype) for path, leaf in tree.items()}


def test_what_never_trains_is_kept_in_another_dtype():
    e = tiny.experiment(frozen={'dtype': 'bfloat16'}, tune=tiny.recipe('last', n=1))
    frozen, trained = (
        [path for path in e.net.params if path.startswith(stages)] for stages in (('backbone/conv',), ('backbone/dense', 'heads'))
    )
    assert len(frozen) == 4 and len(trained) == 4
    leaves = jtl.load_leaves(e)
    assert dtypes(leaves) == dict.fromkeys(frozen, 'bfloat16') | dict.fromkeys(trained, 'float32')
    planned = {leaf['path']: leaf for leaf in e.plan.to_json()['leaves']}
    assert {path: leaf['dtype'] for path, leaf in planned.items()} == dtypes(leaves)
    assert all(planned[path]['bytes'] == leaf.nbytes for path, leaf in leaves.items())
    before = tiny.numpy(leaves)
    held, state = jtl.start(e, leaves)
    state = jtl.training_step(e)(held, state, next(jtl.batches(e)))
    assert np.isfinite(state.window.loss) and not np.array_equal(
        state.params['heads/main/output/kernel'], before['heads/main/output/kernel']
    )
    assert dtypes(state.params) == dict.fromkeys(trained, 'float32')


def test_frozen_parameters_are_those_of_all_phases():
    e = tiny.experiment(frozen={'dtype': 'bfloat16'}, tune=tiny.recipe('lp_ft'))
    assert set(dtypes(e.net.params).values()) == {'float32'}


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'frozen': {'dtype': 'bf16'}}, r"^config\.frozen\.dtype: one of float32, bfloat16, float16, or empty, found 'bf16'"),
        ({'frozen': {'sharding': 'split'}}, r"^config\.frozen\.sharding: 'whole', 'fsdp', or empty, found 'split'"),
        ({'sharding': (('backbone/.*', 'fdsp'),)}, r"^config\.sharding, 'backbone/\.\*': backbone/conv_0/conv/bias: .* found 'fdsp'"),
        ({'remat': (('backbone/conv_0', 1),)}, r"^config\.remat, 'backbone/conv_0': True or False, found 1"),
        ({'precision': (('backbone/conv_9', {'compute': 'bfloat16'}),)}, 'matches no path'),
    ],
)
def test_wrong_fields_are_told(fields, says):
    with pytest.raises(UserError, match=says):
        tiny.experiment(**fields)


def test_the_plan_says_where_leaves_lie_and_what_is_computed_twice():
    e = tiny.experiment(remat=(('backbone/conv_.*', True),), sharding=(('heads/.*', 'whole'),))
    rules = {(rule['what'], rule['pattern']): rule['hits'] for rule in e.plan.to_json()['rules']}
    assert rules['remat', 'backbone/conv_.*'] == 2 and {leaf.sharding for leaf in e.plan.leaves} == {'whole'}
    assert 'backbone/conv_.*' in plan_text(e.plan.to_json())


def test_stages_computed_twice_train_alike():
    states = [
        tiny.train(tiny.experiment({'batch_norm': True, 'dropout': 0.3}, remat=rules), 3)[1][-1] for rules in ((), (('backbone/.*', True),))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), states[0].params, states[1].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), states[0].stats, states[1].stats)


def test_a_bundle_computes_as_the_run_did(tmp_path):
    """Stages in bfloat16: the golden outputs are those of bfloat16, and the loaded net's too."""
    rules = (('backbone/.*', {'compute': 'bfloat16'}), ('heads/.*', {'compute': 'bfloat16'}))
    fields = {'model': {'name': 'convnet', 'image_size': 8, 'channels': (4,), 'dense': ()}, 'data': {'name': 'arrays'}, 'batch_size': 16}
    jtl.run(
        {**fields, 'steps': 2, 'precision': rules, 'frozen': {'dtype': 'bfloat16'}},
        str(tmp_path / 'run'),
        data=tiny.data(),
        say=lambda _: None,
    )
    bundle = load_bundle(str(tmp_path / 'run'))
    assert bundle.net.computes_in('bfloat16') and not bundle.net.computes_in('float16')


def test_only_float16_is_scaled():
    bare = tiny.experiment(precision=(('backbone/.*', {'compute': 'bfloat16'}),))
    assert tiny.start(bare)[1].loss_scale == {}
    assert float(tiny.start(tiny.experiment(precision=HALF))[1].loss_scale['scale']) == 2.0**15


def test_float16_trains_as_float32_does():
    (_, wide), (_, half) = (tiny.train(tiny.experiment(**fields), 6) for fields in ({}, {'precision': HALF}))
    for a, b in zip(wide, half, strict=True):
        np.testing.assert_allclose(b.window.loss, a.window.loss, rtol=5e-3)
        np.testing.assert_allclose(b.window.grad_norm, a.window.grad_norm, rtol=2e-2)


def test_a_step_whose_gradients_overflow_is_left_out_and_halves_the_scale():
    """Until they fit; then it counts. The scale never falls below 1, where what is not finite is a failure."""
    e = tiny.experiment(precision=HALF, optimizer={'name': 'adamw', 'lr': 1e-3, 'ema': 0.9})
    frozen, state = tiny.start(e)
    host = tiny.batch(e)
    step = tiny.compile_fast(tiny.step_of(e), frozen, state, tiny.batch_shapes(e))
    state = state.replace(loss_scale={'scale': jnp.full((), 2.0**24), 'good': jnp.zeros((), jnp.int32)})
    before, scales = tiny.numpy(state), []
    for _ in range(14):
        state = step(frozen, jax.device_put(state, jax.tree.map(lambda x: x.sharding, tiny.start_shapes(e)[1])), tiny.on_mesh(e, host))
        scales.append(float(state.loss_scale['scale']))
        if int(state.window.steps):
            break
        for name in ('params', 'opt_state', 'ema'):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    assert scales[:-1] == [2.0 ** (23 - k) for k in range(len(scales) - 1)] and len(scales) > 3  # several were left out
    assert scales[-1] == scales[-2] and int(state.bad_step) == -1 and int(state.step) == len(scales)
    assert np.isfinite(state.window.loss) and any(not np.array_equal(state.params[p], before.params[p]) for p in state.params)

    state = state.replace(params={path: leaf * jnp.inf for path, leaf in state.params.items()})
    state = state.replace(loss_scale={'scale': jnp.ones(()), 'good': jnp.zeros((), jnp.int32)})
    state = step(frozen, jax.device_put(state, jax.tree.map(lambda x: x.sharding, tiny.start_shapes(e)[1])), tiny.on_mesh(e, host))
    assert int(state.bad_step) == len(scales) and float(state.loss_scale['scale']) == 1


def test_the_scale_doubles_after_a_while_without_overflow():
    by = {'scale': jnp.full((), 8.0), 'good': jnp.full((), PATIENCE - 2, jnp.int32)}
    found = []
    for finite in (True, True, True, False, True):
        by = adjusted(by, jnp.array(finite))
        found.append((float(by['scale']), int(by['good'])))
    assert found == [(8, PATIENCE - 1), (16, 0), (16, 1), (8, 0), (8, 1)]
