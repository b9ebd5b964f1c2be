"""How weights on the Hub want their pictures: published preprocessor_config.json files and timm's, against what jtl knows of these weights."""

import contextlib
import json

import numpy as np
import pytest

from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.hub_preprocessing import preprocessing_beside, preprocessing_from
from jtl.models.preprocessing import Preprocessing

IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}
HALF = {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.5, 0.5, 0.5]}
# As the files of these repositories have them; those of the first years have bare sizes and no class.
FILES = {
    'google/vit-base-patch16-224': {'do_normalize': True, 'do_resize': True, **HALF, 'size': 224, 'resample': 2},
    'facebook/deit-base-patch16-224': {
        'crop_size': 224,
        'do_center_crop': True,
        'do_normalize': True,
        'do_resize': True,
        'feature_extractor_type': 'DeiTFeatureExtractor',
        **IMAGENET,
        'resample': 3,
        'size': 256,
    },
    'facebook/dinov2-base': {
        'crop_size': {'height': 224, 'width': 224},
        'do_center_crop': True,
        'do_convert_rgb': True,
        'do_normalize': True,
        'do_rescale': True,
        'do_resize': True,
        'image_processor_type': 'BitImageProcessor',
        **IMAGENET,
        'resample': 3,
        'rescale_factor': 0.00392156862745098,
        'size': {'shortest_edge': 256},
    },
    'microsoft/resnet-50': {
        'crop_pct': 0.875,
        'do_normalize': True,
        'do_resize': True,
        'feature_extractor_type': 'ConvNextFeatureExtractor',
        **IMAGENET,
        'resample': 3,
        'size': 224,
    },
    'google/efficientnet-b0': {
        'crop_size': {'height': 289, 'width': 289},
        'do_center_crop': False,
        'do_normalize': True,
        'do_rescale': True,
        'do_resize': True,
        'image_mean': [0.485, 0.456, 0.406],
        'image_processor_type': 'EfficientNetImageProcessor',
        'image_std': [0.47853944, 0.4732864, 0.47434163],
        'include_top': True,
        'resample': 0,
        'rescale_factor': 0.00392156862745098,
        'rescale_offset': False,
        'size': {'height': 224, 'width': 224},
    },
}
KNOWN = {  # jtl's own table of the same weights
    'google/vit-base-patch16-224': ('vit_b16', 'transformers ViT'),
    'facebook/deit-base-patch16-224': ('deit_b16', 'transformers ViT'),
    'facebook/dinov2-base': ('dinov2_b14', 'transformers DINOv2'),
    'microsoft/resnet-50': ('resnet50', 'transformers ResNet'),
    'google/efficientnet-b0': ('tf_efficientnet_b0', 'transformers EfficientNet'),
}
TIMM = {
    'architecture': 'vit_base_patch16_384',
    'pretrained_cfg': {
        'input_size': [3, 384, 384],
        'interpolation': 'bicubic',
        'crop_pct': 1.0,
        'crop_mode': 'center',
        'mean': [0.5, 0.5, 0.5],
        'std': [0.5, 0.5, 0.5],
    },
}


USUAL = Preprocessing((8, 8))
ODD = (None, True, -1, 0, 10**12, 0.5, float('inf'), '', 'x', [], [1], [[1], [1], [1]], {}, {'a': 1})


def beside(usual=USUAL, **files):
    content = {f'{name}.json': json.dumps(value).encode() for name, value in files.items()}
    return preprocessing_beside(Checkpoint('hf://owner/name', 'safetensors', {}, lambda key: np.zeros(1), {}, content.get), usual)


@pytest.mark.parametrize('name', FILES)
def test_published_files_say_what_jtl_knows_of_these_weights(name):
    family, table = KNOWN[name]
    known = next(w.preprocessing for w in build_model({'name': family}).weights if w.table.name == table)
    found = beside(preprocessor_config=FILES[name], config={'model_type': 'any'})
    assert (found.size, found.interpolation, found.channels) == (known.size, known.interpolation, known.channels)
    assert found.crop == pytest.approx(known.crop)
    np.testing.assert_allclose((found.mean, found.std), (known.mean, known.std), rtol=1e-6)


def test_timm_says_it_in_its_config():
    fields = {'mean': (127.5,) * 3, 'std': (127.5,) * 3, 'scale': 1.0, 'size': (384, 384), 'interpolation': 'bicubic', 'crop': 1.0}
    assert preprocessing_from(TIMM) == fields
    assert beside(config=TIMM, preprocessor_config=FILES['microsoft/resnet-50']) == Preprocessing(**fields)
    oblong = {'pretrained_cfg': {'input_size': [3, 64, 128], 'crop_pct': None}}
    assert preprocessing_from(oblong) == {'size': (64, 128)}
    assert beside(config=oblong).mean == (127.5,) * 3, 'what is not said is as usual'


@pytest.mark.parametrize('name', FILES)
def test_odd_values_are_told_or_taken(name):
    for field in FILES[name]:
        for odd in ODD:
            with contextlib.suppress(UserError):
                beside(preprocessor_config=FILES[name] | {field: odd})
    for field in (*TIMM, *TIMM['pretrained_cfg']):
        for odd in ODD:
            with contextlib.suppress(UserError):
                beside(config={**TIMM, field: odd} if field in TIMM else {**TIMM, 'pretrained_cfg': TIMM['pretrained_cfg'] | {field: odd}})


@pytest.mark.parametrize(('channels', 'count'), [('L', 1), ('5', 5)])
def test_pictures_of_other_channels_get_the_means_of_colours(channels, count):
    usual = Preprocessing((8, 8), mean=(0.0,) * count, std=(1.0,) * count, channels=channels)
    found = beside(usual, preprocessor_config=FILES['facebook/dinov2-base'])
    wanted = {1: [0.449], 5: [0.485, 0.456, 0.406, 0.485, 0.456]}[count]
    assert (found.channels, found.size) == (channels, (224, 224))
    np.testing.assert_allclose(found.mean, np.array(wanted) * 255, rtol=1e-6)
    grey = beside(usual, preprocessor_config={**HALF, 'image_mean': [0.1] * count, 'image_std': [0.2] * count})
    np.testing.assert_allclose((grey.mean, grey.std), ([25.5] * count, [51.0] * count))


def test_nothing_is_said():
    assert beside() is None and beside(config={'model_type': 'bert'}) is None
    assert beside(preprocessor_config={'feature_extractor_type': 'Wav2Vec2FeatureExtractor', 'sampling_rate': 16000}) is None


def test_a_run_says_it_in_its_plan():
    own = Preprocessing((24, 24), mean=(1.0,), std=(2.0,), channels='L')
    run = {'model': {'name': 'convnet'}, 'tune': {'recipe': 'full'}}
    assert beside(config=run, plan={'preprocessing': own.to_json()}) == own
    assert beside(config=run, plan={'preprocessing': {'max_length': 8, 'buckets': [8]}}) is None, 'of texts'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'resample': 4}, 'resample is 4'),
        ({'size': {'longest_edge': 5}}, r'size should be height and width in pixels, found \(None, None\)'),
        ({'size': 10**9}, 'size should be'),
        ({'image_mean': ['a']}, 'image_mean should be a number for each channel'),
        ({'image_std': [0.5, float('nan'), 0.5]}, 'image_std should be a number'),
        ({'image_std': [0.5, 0.5]}, 'needs 3 values in mean and std, found 3 and 2'),
        ({'rescale_factor': 0}, 'rescale_factor should be above 0'),
        ({'rescale_factor': '1/255'}, 'rescale_factor should be a number'),
        ({'do_center_crop': True, 'crop_size': 500}, 'crop must lie in'),
    ],
)
def test_what_cannot_be_done_is_named(change, message):
    with pytest.raises(UserError, match=message) as caught:
        beside(preprocessor_config=FILES['google/vit-base-patch16-224'] | change)
    assert str(caught.value).startswith('hf://owner/name: ')


@pytest.mark.parametrize(
    ('change', 'message'),
    [({'crop_mode': 'border'}, 'crop_mode is'), ({'interpolation': 'random'}, 'interpolation'), ({'mean': 'x'}, 'mean')],
)
def test_what_cannot_be_done_of_timm_is_named(change, message):
    with pytest.raises(UserError, match=f'hf://owner/name: .*{message}'):
        beside(config={'pretrained_cfg': TIMM['pretrained_cfg'] | change})
