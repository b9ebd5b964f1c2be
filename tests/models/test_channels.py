"""Pictures of other channels than three: the first kernel of a checkpoint is fitted, and data of so many bands train and predict."""

import golden_case
import jax
import numpy as np
import pytest

import jtl
from jtl.checkpoint.adapt import Source, adapt, read
from jtl.checkpoint.base import Checkpoint
from jtl.data.arrays import from_arrays
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import init_shapes
from jtl.models.preprocessing import Preprocessing, for_channels

FIRST = {  # name: the first kernel's path, its key in a torch checkpoint
    'efficientnet_b0': ('backbone/stem/conv/kernel', 'conv_stem.weight'),
    'efficientnet_lite0': ('backbone/stem/conv/kernel', '_conv_stem.weight'),
    'resnet18': ('backbone/stem/conv/kernel', 'conv1.weight'),
    'vgg11': ('backbone/conv_1_1/conv/kernel', 'features.0.weight'),
    'vit_ti16': ('backbone/embeddings/patch/kernel', 'patch_embed.proj.weight'),
}


@pytest.mark.parametrize('name', FIRST)
@pytest.mark.parametrize('channels', [1, 5])
def test_the_first_kernel_is_fitted(name, channels):
    path, key = FIRST[name]
    model = build_model({'name': name, 'image_channels': channels})
    params, _ = init_shapes(model.backbone, model.inputs((32, 32)))
    h, w, count, d = params[path].shape
    assert count == channels
    kernel = golden_case.weight(key, (d, 3, h, w))
    checkpoint = Checkpoint('w', 'fake', {key: jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)}, lambda _: kernel)
    table = next(w.table for w in model.weights if key in w.table.detect)
    found = adapt({path: params[path]}, {'': Source(checkpoint, table)})
    wanted = kernel.transpose(2, 3, 1, 0)
    wanted = wanted.sum(2, keepdims=True) if channels == 1 else wanted[:, :, [0, 1, 2, 0, 1]] * np.float32(3 / 5)
    np.testing.assert_allclose(read(found.origins[path], checkpoint), wanted, rtol=1e-6)
    preprocessing = next(w.preprocessing for w in model.weights if w.table == table)
    assert preprocessing.depth == channels == len(preprocessing.mean)


def test_preprocessing_follows():
    colour = Preprocessing((4, 4), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert for_channels(colour, 3) == colour
    assert for_channels(colour, 1) == Preprocessing((4, 4), (2.0,), (5.0,), channels='L')
    assert for_channels(colour, 4) == Preprocessing((4, 4), (1.0, 2.0, 3.0, 1.0), (4.0, 5.0, 6.0, 4.0), channels='4')
    for wrong in ('0', '-1', 'XYZ', 4):
        with pytest.raises(UserError, match='channels must be'):
            Preprocessing((4, 4), (0.0,), (1.0,), channels=wrong)
    with pytest.raises(UserError, match='found 0'):
        for_channels(colour, 0)


@pytest.mark.slow
def test_five_bands_train_and_predict(tmp_path):
    """The class is told by the fifth band alone."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 200, (60, 8, 8, 5), np.uint8), np.arange(60) % 2
    images[..., 4] = labels[:, None, None] * 200
    config = jtl.default_config()
    config.model.update(image_channels=5, channels=(4,), dense=(), image_size=8)
    config.augment.update(flip=True, rotation=10.0, erase=0.2)
    config.tune.recipe, config.steps, config.optimizer.lr, config.batch_size = 'scratch', 40, 3e-2, 20
    split = {'train': slice(0, 40), 'validation': slice(40, 50), 'test': slice(50, 60)}
    data = from_arrays({k: images[s] for k, s in split.items()}, {k: labels[s] for k, s in split.items()}, ('low', 'high'))
    result = jtl.run(config, str(tmp_path / 'run'), data=data, say=lambda line: None)
    assert result['metrics']['test/accuracy'] == 1.0
    bundle = jtl.load_bundle(str(tmp_path / 'run'))
    assert [said['label'] for said in bundle.predict(list(images[50:54]))] == ['low', 'high', 'low', 'high']
    with pytest.raises(UserError, match='have 3 channels, the model reads 5'):
        bundle.predict([images[0, ..., :3]])
