import pytest

from jtl.data import DATA, defaults, load_data
from jtl.errors import UserError
from jtl.names import lookup


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'digitz'}, r"there is no data set 'digitz'. Did you mean 'digits'"),
        ({'name': 'cifar'}, r"there is no data set 'cifar'. Did you mean 'cifar10'"),
        ({'name': ''}, 'data.name must be the name of a data set'),
        ({'name': 'nowhere.py:mine'}, 'data.name: there is no file nowhere.py'),
        ({'name': 'jtl.errors:nearest_'}, "jtl.errors has no function 'nearest_'"),
        ({'shots': -1}, 'data.shots must be a whole number'),
        ({'test': 1.5}, r'data.test is a share of the training split, in \[0, 1\), found 1.5'),
        ({'classes': 'cat'}, r"Write \('cat',\)"),
    ],
)
def test_what_is_wrong_is_said(section, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_data({'root': str(tmp_path), **section})


def test_a_users_function_gets_the_section_and_the_rest(tmp_path):
    (tmp_path / 'mine.py').write_text("""
import numpy as np
from jtl.data.arrays import from_arrays

def dots(section):
    return from_arrays({'train': np.zeros((section['count'], 2, 2), np.uint8)}, {'train': np.arange(section['count']) % 2}, ('even', 'odd'))

def nothing(section):
    return None
""")
    data = load_data(
        {'name': f'{tmp_path}/mine.py:dots', 'count': 40, 'shots': 3, 'classes': ('odd', 'even'), 'test': 0.25, 'validation': 0.2}
    )
    assert data.labels == ('odd', 'even')
    assert {name: len(split) for name, split in data.splits.items()} == {'train': 6, 'validation': 6, 'test': 10}
    assert len(data.notes) == 4
    with pytest.raises(UserError, match="with a 'train' split, found NoneType"):
        load_data({'name': f'{tmp_path}/mine.py:nothing'})


def test_every_name_of_the_table_is_a_function():
    for name in DATA:
        assert callable(lookup(name, DATA, 'data'))
    assert defaults()['name'] in DATA
