"""Several steps of SGD, Adam and AdamW beside torch's own, with groups, rates by schedule, a decay mask and a global clip."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.optim import Group, learning_rates, make_optimizer

pytestmark = pytest.mark.parity

STEPS = 12


@pytest.mark.parametrize(
    ('optimizer', 'options'),
    [
        ('sgd', {'momentum': 0.9, 'weight_decay': 0.05}),
        ('sgd', {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.05}),
        ('sgd', {'momentum': 0.0, 'weight_decay': 0.05}),
        ('adam', {'b1': 0.85, 'b2': 0.98}),
        ('adamw', {'weight_decay': 0.05}),
    ],
)
def test_steps_equal_torch(optimizer, options):
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    start = {'backbone/kernel': (4, 3), 'backbone/bias': (3,), 'heads/kernel': (3, 2)}
    start = {path: rng.normal(size=shape).astype(np.float32) for path, shape in start.items()}
    labels = {path: path.split('/')[0] + '@0' for path in start}
    groups = {
        'backbone@0': Group('backbone', optimizer, lr=0.01, schedule='cosine', warmup=3, **options),
        'heads@0': Group('heads', optimizer, lr=0.1, schedule='linear', final=0.1, **options),
    }
    decay = {'backbone/kernel': 1.0, 'backbone/bias': 0.0, 'heads/kernel': 1.0}
    tx = make_optimizer(groups, labels, decay, STEPS, clip=1.0)

    theirs = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in start.items()}
    wd = options.get('weight_decay', 0.0)
    param_groups = [{'params': [leaf], 'weight_decay': wd * decay[path]} for path, leaf in theirs.items()]
    if optimizer == 'sgd':
        peer = torch.optim.SGD(param_groups, lr=1.0, momentum=options['momentum'], nesterov=options.get('nesterov', False))
    else:
        make = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[optimizer]
        peer = make(param_groups, lr=1.0, betas=(options.get('b1', 0.9), options.get('b2', 0.999)))

    ours = jax.tree.map(jnp.asarray, start)
    state = tx.init(ours)
    for t in range(STEPS):
        grads = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in start.items()}
        updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, ours)
        ours = optax.apply_updates(ours, updates)
        rates = learning_rates(groups, STEPS, t)
        for path, entry in zip(theirs, peer.param_groups, strict=True):
            entry['lr'] = float(rates[path.split('/')[0]])
            theirs[path].grad = torch.tensor(grads[path])
        assert torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.0) > 1.0
        peer.step()
        for path, leaf in ours.items():
            np.testing.assert_allclose(leaf, theirs[path].detach().numpy(), rtol=1e-4, atol=2e-6, err_msg=f'{path} at step {t}')
