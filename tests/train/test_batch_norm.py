"""What frozen stages keep through training in a net with BatchNorm, depthwise convolutions and stochastic depth."""

import numpy as np
import tiny

from jtl.train.state import merged
from jtl.train.step import compile_predict, make_predict


def changes(e, base, frozen, state):
    """The leaves that are other bits than before, averages in the place of what trained."""
    after = tiny.numpy(merged(frozen, state, averaged=True))
    return {path for path in base if not np.array_equal(after[path], base[path])}


def of_stages(e, names):
    return {path for path in e.net.shapes if path.split('/')[1] in names}


def test_statistics_and_parameters_under_frozen_stages_stay_bit_for_bit():
    e = tiny.experiment(tiny.LITE, batch_size=8, tune=tiny.recipe('last'), optimizer={'momentum': 0.9, 'weight_decay': 0.01, 'ema': 0.5})
    frozen, states = tiny.train(e, 3)
    assert changes(e, tiny.numpy(tiny.leaves_of(e)), frozen, states[-1]) == of_stages(e, {'block_1', 'main'})
    assert set(states[-1].stats) == of_stages(e, {'block_1'}) & set(e.net.stats)


def test_a_frozen_backbone_is_in_training_what_it_is_in_evaluation():
    """BatchNorm and stochastic depth are in the net, dropout is not in the head: the training loss is the evaluation's."""
    e = tiny.experiment(tiny.LITE, batch_size=8, tune=tiny.recipe('probe'))
    leaves = tiny.leaves_of(e)
    frozen, states = tiny.train(e, 3)
    assert changes(e, tiny.numpy(leaves), frozen, states[-1]) == of_stages(e, {'main'}) and states[-1].stats == {}
    predict = compile_predict(make_predict(e.net, e.tasks, e.prepare), e.placement)
    losses = tiny.compile_fast(predict, leaves, tiny.batch_shapes(e))(leaves, tiny.on_mesh(e, tiny.batch(e)))['main'][1]
    np.testing.assert_allclose(states[0].window.loss, np.mean(losses), rtol=1e-6)


def test_weights_of_classes_weigh_the_training_loss_and_not_the_evaluations():
    weights = (0.5, 3.0, 1.25)
    fields = {'name': 'classification', 'zero_init': False}
    e = tiny.experiment(tune=tiny.recipe('probe'), task={**fields, 'class_weights': weights}, optimizer={'lr': 0.1})
    host, leaves = tiny.batch(e), tiny.leaves_of(e)
    _, (state,) = tiny.train(e)
    logits, losses = make_predict(e.net, e.tasks, e.prepare)(leaves, host)['main']
    p = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n = len(host['label'])
    plain = -np.log(p[np.arange(n), host['label']])
    each = np.asarray(weights)[host['label']]
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    np.testing.assert_allclose(state.window.loss, (each * plain).mean(), rtol=1e-5)
    # The bias moves against the mean of weight * (probability - target).
    gradient = (each[:, None] * (p - np.eye(3)[host['label']])).mean(axis=0)
    bias = 'heads/main/output/bias'
    np.testing.assert_allclose(state.params[bias], np.asarray(leaves[bias]) - 0.1 * gradient, rtol=1e-4, atol=1e-6)
