"""What the compiler says about compiled steps: FLOPs, optimizer state, donated buffers.

The reference figures are those of programs written here, stage by stage, without jtl's step.
"""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jtl.models.base import Mode, unflatten
from jtl.opt_state import pack

TRAIN = Mode(train=True, batch_statistics=True)
CHAIN = {'channels': (8, 8, 16), 'dense': (), 'batch_norm': True}


@cache
def compiled(model, n):
    """An experiment of `probe` (n = 0), `last` with n stages or `full`, with clipping; shapes of its state; its compiled step."""
    tune = tiny.recipe('full') if n == 'full' else tiny.recipe('last', n=n) if n else tiny.recipe('probe')
    e = tiny.experiment(tiny.LITE if model == 'lite' else CHAIN, side=32, tune=tune, optimizer={'clip': 1.0})
    frozen, state = tiny.start_shapes(e)
    return e, frozen, state, tiny.compile_fast(tiny.step_of(e), frozen, state, tiny.batch_shapes(e))


def flops(function, *args):
    return tiny.compile_fast(jax.jit(function), *args).cost_analysis()['flops']


def reference(e, frozen, state, n):
    """FLOPs of the forward pass below the last `n` stages (pooling apart), and of loss and gradient of those and the head."""
    names = [s.name for s in e.net.backbone.stages]
    cut = names[len(names) - 1 - n] if n else None
    leaves, batch = {**frozen.leaves, **state.params, **state.stats}, tiny.batch_shapes(e)

    def run(leaves, features, modes, start=None, stop=None):
        below = {
            kind: {p: v for p, v in leaves.items() if p in known}
            for kind, known in (('params', e.net.params), ('batch_stats', e.net.stats))
        }
        variables = {kind: unflatten(flat, 'backbone') for kind, flat in below.items()}
        rngs = {'dropout': jax.random.key(0)}
        return e.net.backbone.apply(variables, features, modes, start=start, stop=stop, rngs=rngs, mutable=['batch_stats'])

    def bottom(leaves, images):
        mean, std = np.array(e.preprocessing.mean, np.float32), np.array(e.preprocessing.std, np.float32)
        return run(leaves, {'image': (images - mean) / std}, {}, stop=cut)[0]

    def top(params, leaves, features, labels):
        leaves, changed = {**leaves, **params}, {}
        if cut:
            modes = dict.fromkeys(names[names.index(cut) :], TRAIN)
            features, changed = run(leaves, features, modes, start=cut)
        outputs = features['pooled'] @ leaves['heads/main/output/kernel'] + leaves['heads/main/output/bias']
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1).mean(), changed

    features = jax.eval_shape(bottom, leaves, batch['image'])
    return (
        flops(bottom, leaves, batch['image']),
        flops(jax.value_and_grad(top, has_aux=True), dict(state.params), leaves, features, batch['label']),
    )


@pytest.mark.parametrize(('model', 'n'), [('convnet', 0), ('convnet', 1), ('convnet', 2), ('lite', 0), ('lite', 1)])
def test_a_step_costs_the_forward_pass_and_the_backward_pass_of_what_trains(model, n):
    """`probe` (n = 0) and `last`, with the norm of the gradients taken and clipped."""
    e, frozen, state, step = compiled(model, n)
    below, above = reference(e, frozen, state, n)
    assert step.cost_analysis()['flops'] == pytest.approx(below + above, rel=0.02)
    if not n:
        assert above < 0.02 * below  # so that the line above is about the forward pass


def test_a_frozen_stage_is_worth_freezing():
    """The 2 % above would mean little if a backward pass were cheap."""
    probe, one, two, full = (compiled('convnet', n)[-1].cost_analysis()['flops'] for n in (0, 1, 2, 'full'))
    assert probe < 0.9 * one < 0.8 * two < 0.7 * full


MOMENTS = {'sgd': 0, 'momentum': 1, 'adam': 2, 'adamw': 2, 'lamb': 2}


@pytest.mark.parametrize(('recipe', 'optimizer'), [*(('last', name) for name in MOMENTS), ('probe', 'adamw'), ('full', 'momentum')])
def test_optimizer_state_is_what_the_trainable_parameters_need(recipe, optimizer):
    options = {'name': 'sgd', 'momentum': 0.9} if optimizer == 'momentum' else {'name': optimizer}
    e = tiny.experiment(tune=tiny.recipe(recipe), optimizer=options)
    # By hand: conv 3x3x1x4 + 4 and 3x3x4x8 + 8, dense 2x2x8x16 + 16, head 16x3 + 3.
    parameters = {'probe': 51, 'last': 51 + 528, 'full': 51 + 528 + 296 + 40}[recipe]
    (phase,) = e.plan.phases
    assert phase.optimizer_bytes == 4 * parameters * MOMENTS[optimizer] == e.plan.to_json()['phases'][0]['optimizer_bytes']

    frozen, state = tiny.start_shapes(e)
    moments = pack(state.opt_state, phase.labels)['moments']
    assert all(set(slot) == set(state.params) == set(phase.labels) for slot in moments.values())
    assert sum(4 * leaf.size for slot in moments.values() for leaf in slot.values()) == phase.optimizer_bytes
    assert sum(4 * leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.shape) == phase.optimizer_bytes  # nothing hides elsewhere
    assert not set(frozen.leaves) & set(state.params)


def test_the_state_is_donated_and_what_is_frozen_is_not():
    e = tiny.experiment(
        batch_norm=(('backbone/conv_1', 'batch'),), tune=tiny.recipe('last'), model={'batch_norm': True}, optimizer={'ema': 0.9}
    )
    step, batch = tiny.step_of(e), tiny.on_mesh(e, tiny.batch(e))
    frozen, state = tiny.start(e)
    executable = step.lower(frozen, state, batch).compile()
    aliases = re.search(r'input_output_alias=\{(.*?)\}, entry', executable.as_text())[1]
    assert len(re.findall(r'(?:may|must)-alias', aliases)) == len(jax.tree.leaves(state))
    assert executable.memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    after = jax.block_until_ready(step(frozen, state, batch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch, after)))
    jax.block_until_ready(step(frozen, after, batch))  # and what comes out may be donated again
