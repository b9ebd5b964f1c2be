"""Files of transformers' bare vision models: the keys of those with a head, which are in golden/, without the model's name and the head."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table
from jtl.checkpoint.base import Checkpoint
from jtl.checkpoint.sources import open_checkpoint
from jtl.models import build_model
from jtl.models.base import init_shapes

GOLDEN = Path(__file__).parent / 'golden'


def _torch_specs(name):
    with np.load(GOLDEN / f'{name}_transformers.npz') as file:
        shapes = [tuple(int(n) for n in shape if n >= 0) for shape in file['shapes']]
        return {str(key): jax.ShapeDtypeStruct(shape, 'float32') for key, shape in zip(file['keys'], shapes, strict=True)}


def _origins(specs, section):
    model = build_model(section)
    params, stats = init_shapes(model.backbone, model.inputs((64, 64)))
    checkpoint = Checkpoint('golden', 'golden', specs, lambda key: np.zeros(specs[key].shape))
    table = choose_table(checkpoint, [weights.table for weights in model.weights], params | stats)
    return table.name, adapt(params | stats, {'': Source(checkpoint, table)}).origins


@pytest.mark.parametrize(
    ('name', 'section'),
    [
        ('resnet', {'name': 'resnet50', 'depths': (2, 1), 'width': 4}),
        ('resnet/', {'name': 'resnet18', 'depths': (2, 1), 'width': 4}),
        ('bit', {'name': 'bit_resnet50x1', 'depths': (1, 2), 'width': 32}),
        ('convnext', {'name': 'convnext_tiny', 'depths': (1, 1), 'width': 4}),
        ('efficientnet', {'name': 'tf_efficientnet_b0', 'width': 0.5, 'depth': 0.25}),
    ],
)
def test_every_leaf_comes_from_the_key_without_the_name(name, section):
    part = name if '/' in name else f'{name}.'
    whole = open_checkpoint(str(GOLDEN / 'resnet_flax.msgpack')).specs if '/' in name else _torch_specs(name)
    bare = {key.replace(part, '', 1): spec for key, spec in whole.items() if part in key}
    assert len(bare) == len(whole) - 2 and not bare.keys() & whole.keys(), 'all but kernel and bias of the classifier'
    table, origins = _origins(whole, section)
    bare_table, found = _origins(bare, section)
    assert (bare_table, table) == (f'{table} without head', table.removesuffix(' without head')), (
        'where both fit, that with a head is taken'
    )
    assert {path: origin.key for path, origin in found.items()} == {
        path: origin.key.replace(part, '', 1) for path, origin in origins.items()
    }
    assert all(found[path].functions == origin.functions and origin.status != 'new' for path, origin in origins.items())
