"""Recalibration against `torch.optim.swa_utils.update_bn` on the same net, weights and batches."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'train'))
import tiny

from jtl.train.evaluation import training_batches
from jtl.train.parts import order_seed
from jtl.train.recalibrate import recalibration

pytestmark = pytest.mark.parity


def test_as_torch_updates_them():
    torch = pytest.importorskip('torch')
    nn = torch.nn
    e = tiny.experiment({'batch_norm': True, 'bn_momentum': 0.99}, recalibrate=4)
    leaves = tiny.leaves_of(e)
    found = recalibration(e, 0)(leaves)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 8, 3, padding=1, bias=False)])
            self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(8)])
            self.sizes = []

        def forward(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = conv(x)
                self.sizes.append(x.numel() // x.shape[1])
                x = nn.functional.max_pool2d(torch.relu(norm(x)), 2)
            return x

    net = Net()
    with torch.no_grad():
        for k in range(2):
            at = f'backbone/conv_{k}'
            net.convs[k].weight.copy_(torch.tensor(np.asarray(leaves[f'{at}/conv/kernel']).transpose(3, 2, 0, 1)))
            net.norms[k].weight.copy_(torch.tensor(np.asarray(leaves[f'{at}/bn/scale'])))
            net.norms[k].bias.copy_(torch.tensor(np.asarray(leaves[f'{at}/bn/bias'])))
    batches = islice(training_batches(e, order_seed(e.config['seed'], 'recalibrate'), 0), 4)
    torch.optim.swa_utils.update_bn(
        [(torch.tensor(np.asarray(b['image'], np.float32).transpose(0, 3, 1, 2)) - 127.5) / 127.5 for b in batches], net
    )
    for k in range(2):
        n, norm, at = net.sizes[k], net.norms[k], f'backbone/conv_{k}/bn'
        assert int(norm.num_batches_tracked) == 4
        np.testing.assert_allclose(found[f'{at}/mean'], norm.running_mean.numpy(), rtol=1e-5, atol=1e-6)
        # torch keeps the unbiased variance of each batch, Flax the biased one.
        np.testing.assert_allclose(found[f'{at}/var'], norm.running_var.numpy() * (n - 1) / n, rtol=1e-5)
