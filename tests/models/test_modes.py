"""Training and evaluation differ where a stage's mode says so, and nowhere else: BatchNorm's statistics, dropout, stochastic depth."""

import jax
import numpy as np
import pytest

from jtl.models.base import EVAL, Backbone, Mode
from jtl.models.convnet import convnet
from jtl.models.efficientnet_lite import efficientnet_lite0

LITE = efficientnet_lite0(stochastic_depth=0.8, bn_momentum=0.9)
FAMILIES = {
    'convnet': convnet(channels=(3, 4), dense=(5, 6), batch_norm=True, bn_momentum=0.9, dropout=0.5, image_channels=3),
    'efficientnet_lite': LITE.__class__(Backbone(stages=LITE.backbone.stages[:4]), LITE.inputs, LITE.preprocessing),
}
NORMED = {'convnet': {'conv_0', 'conv_1'}, 'efficientnet_lite': {'stem', 'block_0', 'block_1', 'block_2'}}
RANDOM = {'convnet': {'dense_0', 'dense_1'}, 'efficientnet_lite': {'block_2'}}  # the first two blocks have no way around them
SIZE = (8, 8)
DROPOUT = jax.random.key(3)
DONE = {}  # what `run` gave, for what it was asked before


def equal(left, right):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    """A family's name and backbone, variables with statistics that are no batch's, and what each stage reads in evaluation."""
    model = FAMILIES[request.param]
    inputs = {'image': jax.random.normal(jax.random.key(0), (4, *SIZE, 3))}
    variables = jax.eval_shape(model.backbone.init, jax.random.key(1), inputs)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(0.2, 0.8, s.shape).astype(s.dtype) * rng.choice([-1, 1], s.shape[-1:]), variables)
    variables['batch_stats'] = jax.tree.map(np.abs, variables['batch_stats'])
    reads, features = {}, inputs
    for stage in model.backbone.stages:
        reads[stage.name] = features
        features = run(model.backbone, variables, features, stage.name, EVAL)[0]
    return request.param, model.backbone, variables, reads


def run(backbone, variables, features, name, mode):
    """One stage in a mode: what it gives, and its statistics afterwards."""
    if (backbone, name, mode) not in DONE:
        names = [*(stage.name for stage in backbone.stages), None]
        stop = names[names.index(name) + 1]
        DONE[backbone, name, mode] = compiled(backbone, {name: mode}, name, stop, variables, features)(variables, features)
    out, changed = DONE[backbone, name, mode]
    return out, changed['batch_stats']


def compiled(backbone, modes, start, stop, *args):
    """Compiled with little effort of LLVM's: the program that XLA optimised is the same."""
    apply = jax.jit(lambda v, x: backbone.apply(v, x, modes, start=start, stop=stop, rngs={'dropout': DROPOUT}, mutable=['batch_stats']))
    return apply.lower(*args).compile(compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True})


def test_only_batch_statistics_change_what_batch_norm_gives_and_keeps(family):
    name, backbone, variables, reads = family
    for stage, features in reads.items():
        out, stats = run(backbone, variables, features, stage, EVAL)
        assert equal(stats, variables['batch_stats'])
        batch_out, batch_stats = run(backbone, variables, features, stage, Mode(batch_statistics=True))
        assert equal(batch_out, out) == (stage not in NORMED[name]), stage
        changed = {s for s in batch_stats if not equal(batch_stats[s], variables['batch_stats'][s])}
        assert changed == {stage} & NORMED[name]
        if changed:  # every statistic of it
            pairs = zip(jax.tree.leaves(batch_stats[stage]), jax.tree.leaves(variables['batch_stats'][stage]), strict=True)
            assert all((np.asarray(new) != old).all() for new, old in pairs)


def test_only_training_draws_at_random_and_leaves_statistics_alone(family):
    name, backbone, variables, reads = family
    for stage, features in reads.items():
        out, _ = run(backbone, variables, features, stage, EVAL)
        trained, stats = run(backbone, variables, features, stage, Mode(train=True))
        assert equal(trained, out) == (stage not in RANDOM[name]), stage
        assert equal(stats, variables['batch_stats'])


def test_stages_below_a_training_one_run_as_in_evaluation(family):
    """A whole pass with the last normed stage in training: what it reads, and the statistics of all others, bit for bit."""
    name, backbone, variables, reads = family
    top = [stage.name for stage in backbone.stages if stage.name in NORMED[name]][-1]
    modes = {top: Mode(train=True, batch_statistics=True)}
    inputs = reads[backbone.stages[0].name]
    stats = compiled(backbone, modes, None, None, variables, inputs)(variables, inputs)[1]['batch_stats']
    assert {s for s in stats if not equal(stats[s], variables['batch_stats'][s])} == {top}
    _, alone = run(backbone, variables, reads[top], top, modes[top])
    np.testing.assert_allclose(jax.tree.leaves(stats[top])[0], jax.tree.leaves(alone[top])[0], rtol=1e-5)
