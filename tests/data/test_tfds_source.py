import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError


def png(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)).save(file, 'png')
    return file.getvalue()


class Zoo(tfds.core.GeneratorBasedBuilder):
    """Two labels, a tag list, a weight; a split by another name, one without labels, one that jtl does not know."""

    VERSION = tfds.core.Version('1.2.3')
    pkg_dir_path = None

    def _info(self):
        label = tfds.features.ClassLabel(names=['ant', 'bee'])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'photo': tfds.features.Image(),
                    'kind': label,
                    'colour': tfds.features.ClassLabel(names=['red', 'blue', 'green']),
                    'tags': tfds.features.Sequence(tfds.features.ClassLabel(names=['big', 'wild', 'rare'])),
                    'grams': np.float32,
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(k, name) for k, name in enumerate(('train', 'dev', 'test', 'extra'))}

    def _generate_examples(self, k, name):
        for j in range(3):
            yield (
                j,
                {
                    'photo': png(10 * k + j),
                    'kind': -1 if name == 'test' else j % 2,
                    'colour': j,
                    'tags': [] if j == 0 else [0, j],
                    'grams': j / 2,
                },
            )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('zoo')
    Zoo(data_dir=root, file_format='array_record').download_and_prepare()
    return root


def test_a_prepared_directory_and_a_name_are_the_same_data(root):
    by_name = load_data({'name': 'zoo:1.2.3', 'root': str(root), 'label_key': 'kind', 'test': 0.0})
    by_place = load_data({'name': 'tfds', 'root': str(root / 'zoo' / '1.2.3'), 'label_key': 'kind', 'test': 0.0})
    assert by_name.fingerprint == by_place.fingerprint
    assert by_name.labels == ('ant', 'bee') and list(by_name.splits) == ['train', 'validation']
    assert by_name.splits['validation'].targets.tolist() == [0, 1, 0]
    expected = np.asarray(Image.open(io.BytesIO(png(12))))
    np.testing.assert_array_equal(by_name.splits['validation'].examples[2]['image'], expected)
    assert by_name.notes[0] == 'test: 3 of 3 examples have no label and are left out.'
    assert by_name.notes[1] == 'splits of zoo/1.2.3 that are left out: extra.'


def test_kinds_of_labels(root):
    def targets(key):
        return load_data({'name': 'zoo', 'root': str(root), 'label_key': key}).splits['train'].targets

    assert targets('colour').tolist() == [0, 1, 2]
    assert targets('tags').tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert targets('grams').tolist() == [0, 0.5, 1] and targets('grams').dtype == np.float32


def test_a_data_set_whose_definition_nobody_has(tmp_path):
    """Prepared elsewhere: the directory is all there is. Grey pictures of 8 and 16 bits, and what is no picture."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2**16, (4, 5, 6), np.uint16)

    def encoded(array):
        file = io.BytesIO()
        Image.fromarray(array).save(file, 'png')
        return file.getvalue()

    with tfds.core.registered.skip_registration():

        class Ark(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version('1.0.0')
            pkg_dir_path = None

            def _info(self):
                features = {
                    'grey': tfds.features.Image(shape=(None, None, 1)),
                    'deep': tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
                    'bands': tfds.features.Tensor(shape=(2, 5, 6, 5), dtype=np.uint8),
                    'label': tfds.features.ClassLabel(names=['clean', 'unclean']),
                }
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=('grey', 'label'), disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {'train': self._generate_examples()}

            def _generate_examples(self):
                for k in range(4):
                    bands = np.zeros((2, 5, 6, 5), np.uint8)
                    grey = encoded((pixels[k] // 257).astype(np.uint8))
                    yield k, {'grey': grey, 'deep': encoded(pixels[k]), 'bands': bands, 'label': k % 2}

    Ark(data_dir=tmp_path, file_format='array_record').download_and_prepare()
    place = {'name': 'tfds', 'root': str(tmp_path / 'ark' / '1.0.0'), 'validation': 0.0, 'test': 0.0}
    by_place, by_name = load_data(place), load_data({**place, 'name': 'ark', 'root': str(tmp_path)})
    assert by_place.labels == by_name.labels == ('clean', 'unclean') and by_place.fingerprint == by_name.fingerprint
    assert by_place.splits['train'].targets.tolist() == [0, 1, 0, 1]
    for data in (by_place, load_data({**place, 'image_key': 'deep'})):
        example = data.splits['train'].examples[3]
        assert example['label'] == 1
        np.testing.assert_array_equal(example['image'][..., 0], pixels[3] // 257)
    with pytest.raises(UserError, match=r'train\[0\]: an image must be \(height, width\) or .* found shape \(2, 5, 6, 5\)'):
        preflight(load_data({**place, 'image_key': 'bands'}))


def test_what_is_wrong_is_said(root, tmp_path):
    def refuse(message, **section):
        with pytest.raises(UserError, match=message):
            load_data({'root': str(root), **section})

    refuse(r'has 3 features that could be the label; name one of its features: photo \(Image\), kind \(ClassLabel\), colour', name='zoo')
    refuse(r"has no feature 'kinds'. Did you mean 'kind'", name='zoo', label_key='kinds')
    refuse(r"no data set 'zooo'. Did you mean 'zoo'", name='zooo')
    refuse(r'zoo:9.9.9 cannot be opened: .*only: 1.2.3', name='zoo:9.9.9')
    (tmp_path / 'ark' / '1.0.0').mkdir(parents=True)
    refuse(r'ark is there in another version', name='ark:2.0.0', root=str(tmp_path))
    refuse(
        r'beans is not prepared in .* Set data.download=True .* python -c "import tensorflow_datasets .*builder\(\'beans\', data_dir=.*, file_format=\'array_record\'\)',
        name='beans',
    )
    refuse(r'beans:9.9.9 cannot be opened: .*only: 0.1.0', name='beans:9.9.9')
    refuse(r'holds no dataset_info.json', name='tfds')
    refuse(r'needs a prepared directory', name='tfds', root='')


def test_tfrecord_is_refused_with_the_remedy(root, tmp_path):
    import shutil

    place = tmp_path / 'zoo' / '1.2.3'
    shutil.copytree(root / 'zoo' / '1.2.3', place)
    info = place / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with pytest.raises(
        UserError,
        match=r'is prepared as tfrecord, which only TensorFlow reads\. Add array_record files, once, where TensorFlow and apache-beam are installed: '
        rf'python -m tensorflow_datasets\.scripts\.convert_format --dataset_version_dir={place} --out_file_format=array_record$',
    ):
        load_data({'name': 'tfds', 'root': str(place), 'label_key': 'kind'})


def test_a_damaged_directory_is_said(root, tmp_path):
    (tmp_path / 'dataset_info.json').write_text('{')
    with pytest.raises(UserError, match='cannot be opened as a TFDS data set'):
        load_data({'name': 'tfds', 'root': str(tmp_path)})
