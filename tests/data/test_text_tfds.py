"""Text features of prepared TFDS data sets; stock builders are in test_tfds_stock.py."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError

ROWS = [('Fine.', 'A: fine.', 0.5, 1), (' Naïve \n', 'B', -2.0, 0), (b'caf\xe9', 'C', 1.0, 1), ('Fine.', '', 0.0, 0)]


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(file, 'png')
    return file.getvalue()


def prepared(root, name, features, rows):
    """A data set whose definition nobody has: the directory is all there is."""
    with tfds.core.registered.skip_registration():
        info = tfds.features.FeaturesDict(features)
        builder = type(
            name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                'VERSION': tfds.core.Version('1.0.0'),
                'pkg_dir_path': None,
                '_info': lambda self: tfds.core.DatasetInfo(builder=self, features=info, disable_shuffling=True),
                '_split_generators': lambda self, dl_manager: {'train': self._generate_examples()},
                '_generate_examples': lambda self: enumerate(rows),
            },
        )
        builder(data_dir=root, file_format='array_record').download_and_prepare()
    return str(root / name.lower() / '1.0.0')


@pytest.fixture(scope='module')
def reviews(tmp_path_factory):
    features = {
        'body': tfds.features.Text(),
        'title': np.str_,
        'stars': np.float32,
        'kind': tfds.features.ClassLabel(names=['no', 'yes']),
        'words': tfds.features.Sequence(tfds.features.Text()),
    }
    rows = [{'body': a, 'title': b, 'stars': c, 'kind': d, 'words': [b]} for a, b, c, d in ROWS]
    return prepared(tmp_path_factory.mktemp('reviews'), 'Reviews', features, rows)


def load(root, **fields):
    return load_data({'name': 'tfds', 'root': root, 'validation': 0.0, 'test': 0.0, **fields})


def test_classes_and_values(reviews):
    data = load(reviews, text_key='title')
    train = data.splits['train']
    assert data.labels == ('no', 'yes') and train.targets.tolist() == [1, 0, 1, 0] and train.targets.dtype == np.int32
    assert train.examples[1] == {'text': 'B', 'label': 0} and train.name_of(1) == 'train[1]'
    values = load(reviews, text_key='body', pair_key='title', label_key='stars')
    assert values.labels == () and values.splits['train'].targets.tolist() == [0.5, -2, 1, 0]
    assert values.splits['train'].examples[1] == {'text': 'Naïve', 'pair': 'B', 'label': -2.0}
    assert len({data.fingerprint, values.fingerprint, load(reviews, text_key='body').fingerprint}) == 3


def test_texts_that_are_none_are_found_by_the_preflight(reviews):
    data = load(reviews, text_key='body', pair_key='title')
    with pytest.raises(
        UserError, match=r'(?s)2 of the 4 .*train\[2\]: no Unicode text, it holds .\\udce9.\..*train\[3\]: the second text is empty'
    ):
        preflight(data)
    assert preflight(data, max_unreadable=2).counts == {'train': (1, 1)}


def test_which_feature_is_the_text_must_be_known(reviews):
    for message, fields in (
        (r'data.text_key: reviews/1.0.0 has 2 features that could be the text; .* body \(Text\)', {}),
        (r"data.text_key: reviews/1.0.0 has no feature 'boddy'. Did you mean 'body'", {'text_key': 'boddy'}),
        (r"data.text_key: the feature 'words' of reviews/1.0.0 is no text but Sequence", {'text_key': 'words'}),
        (r"data.text_key: the feature 'title' of reviews/1.0.0 is no text", {'text_key': 'title', 'label_key': 'title'}),
    ):
        with pytest.raises(UserError, match=message):
            load(reviews, **fields)


def test_pictures_with_captions_are_pictures_unless_the_text_is_named(tmp_path):
    features = {'photo': tfds.features.Image(), 'caption': tfds.features.Text(), 'label': tfds.features.ClassLabel(names=['a', 'b'])}
    place = prepared(tmp_path, 'Captions', features, [{'photo': png(k), 'caption': f'No. {k}', 'label': k % 2} for k in range(3)])
    assert load(place).splits['train'].examples[2]['image'].tolist() == np.full((4, 5, 3), 2).tolist()
    assert load(place, text_key='caption').splits['train'].examples[2] == {'text': 'No. 2', 'label': 0}
