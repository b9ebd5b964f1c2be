"""Further data of a run (`config.sources`): their own fields, and what a run is gone on with."""

import contextlib

import numpy as np
import pytest
import texts
from etils import epath

import jtl
from jtl.errors import UserError
from jtl.train.files import RunFiles
from jtl.train.resume import RunStore

RARE = 4  # of 40 texts


@pytest.fixture
def config(tmp_path):
    """Two phases: the first on texts of which few are positive, as often as the others by its own sampling; the second as they come."""
    for name in ('mine', 'more'):
        rows = [f'{" ".join(words)},{"pos" if k < RARE else "neg"},train' for k, words in enumerate(texts.sentences(40, 0))]
        (tmp_path / f'{name}.csv').write_text('\n'.join(['text,label,split', *rows]))
    phase = {'steps': 5, 'train': (('.*', 'all'),)}
    more = {'root': str(tmp_path / 'more.csv'), 'sampling': 'balanced'}
    made = texts.config('text_csv', tmp_path / 'mine.csv', sources={'more': more}, phases=({**phase, 'data': 'more'}, phase))
    made.tune.recipe, made.data.validation, made.data.test = '', 0.0, 0.0
    return made


def test_each_source_is_sampled_as_it_says(config):
    experiment = jtl.build(config)
    assert list(experiment.sources) == ['', 'more'] and experiment.data is experiment.sources['']
    positive = []
    for phase in (0, 1):
        feed = jtl.batches(experiment, phase)  # five batches are an epoch
        positive.append(sum(int((np.asarray(next(feed)['label']) == experiment.data.labels.index('pos')).sum()) for _ in range(5)))
    assert positive == [20, RARE]


def test_a_run_does_not_go_on_with_another_source(config, tmp_path):
    files = RunFiles(epath.Path(tmp_path / 'run'))

    def begin():
        with contextlib.closing(RunStore(files, jtl.build(config))) as store:
            store.start_or_resume()

    begin()
    (tmp_path / 'elsewhere').mkdir()
    moved = tmp_path / 'elsewhere' / 'more.csv'
    moved.write_bytes((tmp_path / 'more.csv').read_bytes())
    config.sources.more.root = str(moved)
    begin()  # the same data in another place
    config.sources.more.root = str(tmp_path / 'more.csv')
    (tmp_path / 'more.csv').write_text((tmp_path / 'more.csv').read_text() + '\ngood film,pos,train')
    with pytest.raises(UserError, match='the data set is not the one the run began with'):
        begin()
