"""From a config's `model` section to a model, and what is said about a wrong one."""

import inspect

import jax.numpy as jnp
import pytest

from jtl.errors import UserError
from jtl.models import MODELS, build_model
from jtl.models.base import init_shapes
from jtl.names import lookup


def test_every_name_in_the_table_is_a_family():
    sizes = {'width': 8, 'depth': 1, 'heads': 2, 'vocab_size': 16}
    for name in MODELS:
        declared = inspect.signature(lookup(name, MODELS, 'model')).parameters
        needed = {key: size for key, size in sizes.items() if key in declared and declared[key].default in (0, inspect.Parameter.empty)}
        section = {'name': name, 'image_size': 0, 'dtype': 'float32', 'param_dtype': 'float32', **needed}
        assert build_model(section).backbone.stages, name


def test_image_size_goes_into_every_preprocessing():
    own = build_model({'name': 'efficientnet_lite1'})
    assert own.preprocessing.size == own.weights[0].preprocessing.size == (240, 240)
    for given, size in ((128, (128, 128)), ((96, 128), (96, 128)), ([96, 128], (96, 128))):
        model = build_model({'name': 'efficientnet_lite1', 'image_size': given})
        assert model.preprocessing.size == model.weights[0].preprocessing.size == size
        assert model.weights[0].preprocessing.crop == own.preprocessing.crop


def test_dtypes_are_names():
    model = build_model({'name': 'convnet', 'dtype': 'bfloat16', 'param_dtype': 'float16'})
    params, _ = init_shapes(model.backbone, model.inputs((8, 8)))
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype('float16')}
    assert model.backbone.stages[0].make().dtype == jnp.bfloat16


def test_lists_are_tuples_as_json_gives_them_back():
    model = build_model({'name': 'convnet', 'channels': [4], 'dense': []})
    assert [stage.name for stage in model.backbone.stages] == ['conv_0']


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'convnt'}, r"model.name.*'convnt'.*'convnet'"),
        ({'name': 'vit', 'heads': 2}, 'model: vit needs width, depth'),
        ({'image_size': 8}, 'model.name must be a name'),
        ({'name': 'convnet', 'chanels': (4,)}, r"model.chanels: convnet has no such option.*'channels'"),
        ({'name': 'convnet', 'channels': 4}, r'model.channels.*\(32, 64\).*found 4'),
        ({'name': 'convnet', 'channels': ('a',)}, 'model.channels'),
        ({'name': 'convnet', 'batch_norm': 1}, 'model.batch_norm'),
        ({'name': 'convnet', 'kernel': True}, 'model.kernel'),
        ({'name': 'convnet', 'channels': ()}, 'at least one convolution'),
        ({'name': 'convnet', 'image_channels': 0}, 'model.image_channels'),
        ({'name': 'convnet', 'dropout': 1.0}, 'dropout in'),
        ({'name': 'convnet', 'image_size': -1}, 'model.image_size'),
        ({'name': 'convnet', 'image_size': (0, 8)}, 'model.image_size'),
        ({'name': 'convnet', 'image_size': (8, 8, 1)}, 'model.image_size'),
        ({'name': 'convnet', 'image_size': '8'}, 'model.image_size'),
        ({'name': 'convnet', 'dtype': 'f32'}, 'model.dtype must be one of'),
    ],
)
def test_wrong_sections(section, message):
    with pytest.raises(UserError, match=message):
        build_model(section)


def test_a_family_from_a_file(tmp_path):
    path = tmp_path / 'nets.py'
    path.write_text(
        'from jtl.models.convnet import convnet\n'
        'def tiny(*, width=4):\n    return convnet(channels=(width,), dense=())\n'
        'def free(**options):\n    return convnet(**options)\n'
        'def wrong():\n    return 3\n'
    )
    always = {'dtype': 'float32', 'param_dtype': 'float32', 'image_size': 0}
    model = build_model({'name': f'{path}:tiny', 'width': 6, **always})
    assert init_shapes(model.backbone, model.inputs((4, 4)))[0]['backbone/conv_0/conv/kernel'].shape == (3, 3, 1, 6)
    with pytest.raises(UserError, match=r'model\.dtype: .*no such option'):
        build_model({'name': f'{path}:tiny', **always, 'dtype': 'bfloat16'})
    assert len(build_model({'name': f'{path}:free', 'channels': (2, 2, 2), **always}).backbone.stages) == 4
    with pytest.raises(UserError, match='must return a jtl'):
        build_model({'name': f'{path}:wrong'})
