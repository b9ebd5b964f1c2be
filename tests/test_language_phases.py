"""Language models before a task, from a config to the leaves after each phase: ULMFiT's recipe, and masked words before a tiny BERT's task."""

import contextlib
import json
from functools import cache
from itertools import pairwise

import config_texts
import jax
import numpy as np
import pytest
from etils import epath

import jtl
from jtl.errors import UserError
from jtl.train.files import RunFiles
from jtl.train.loop import train
from jtl.train.resume import RunStore

NAMES = tuple(f'w{k}' for k in range(8))


class Kept(RunStore):
    """A store that only keeps the leaves as they are at the end of each phase."""

    def save(self, frozen, state, at):
        if at.done:
            self.leaves = [*getattr(self, 'leaves', ()), jax.device_get(jtl.merged(frozen, state))]

    def save_best(self, leaves, at):
        pass


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Compiling is most of these tests."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


def trained(config, where):
    """The experiment, the leaves before the first phase and after each, the last validation row by the phase's name, the position at the
    end, and the predictors.
    """
    experiment = jtl.build(config)
    predict = cache(lambda head: jtl.prediction_step(experiment, head=head))
    start = jax.device_get(jtl.load_leaves(experiment))
    with contextlib.closing(Kept(RunFiles(epath.Path(where)), experiment)) as store:
        _, at = train(experiment, store.files, store, predict)
    rows = [json.loads(line) for line in store.files.metrics.read_text().splitlines()]
    return experiment, [start, *store.leaves], {row['phase_name']: row for row in rows if 'validation/loss' in row}, at, predict


def moved(before, after):
    """The parts of the tree in which a bit differs: stages, and heads by their name."""
    parts = {path: path.split('/')[1] for path in before}
    return {parts[path] for path in before if before[path].tobytes() != after[path].tobytes()}


def walk(count, step, seed):
    """Sentences of seven words in which two words may follow each, equally often: the one `step` further, and the one after that."""
    random = np.random.default_rng(seed)
    places = np.cumsum([random.integers(0, 8, count), *(step + random.integers(0, 2, (6, count)))], axis=0) % 8
    return [' '.join(NAMES[k] for k in row) for row in places.T]


def unigram(split, train):
    """The perplexity of a guess by how often each word (or the end) occurs in training; every token but the first is asked for."""
    counts = np.bincount(words_of(train), minlength=64)
    return np.exp(-np.mean(np.log(counts[words_of(split)] / counts.sum())))


def words_of(split):
    return np.concatenate([split.examples[k]['ids'][1:] for k in range(len(split))])


@pytest.fixture
def ulmfit(tmp_path):
    """A config whose classes are two ways to go on, of which general text has one."""
    (tmp_path / 'texts').mkdir()
    for step, label in ((1, 'short'), (3, 'long')):
        (tmp_path / 'texts' / f'{label}.txt').write_text('\n'.join(walk(60, step, step)))
    (tmp_path / 'general.txt').write_text('\n'.join(walk(150, 1, 0)))
    config = jtl.default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=16, hidden=16)
    config.data.update(name='text_files', root=str(tmp_path / 'texts'), shots=20)
    config.tasks.lm = {'name': 'causal_lm'}
    config.sources.target = {'shots': 0}
    config.sources.general = {'name': 'text_lines', 'root': str(tmp_path / 'general.txt'), 'shots': 0}
    config.tune.recipe = 'ulmfit'
    config.tune.ulmfit.update(general_fraction=0.4, target_fraction=0.3, target_decay=0.8, decay=0.8)
    config.optimizer.update(name='adam', lr=0.03, schedule='linear', warmup=0.1, final=1 / 32)
    config.text.buckets = (9,)
    config.steps, config.batch_size = 120, 16
    return config


def test_ulmfit(ulmfit, tmp_path):
    experiment, leaves, rows, at, _ = trained(ulmfit, tmp_path / 'run')
    assert list(rows) == [phase.name for phase in experiment.plan.phases] == ['general_lm', 'target_lm', 'heads', 'thaw_1', 'thaw_2']
    assert [moved(a, b) for a, b in pairwise(leaves)] == [
        {'lm', 'embeddings', 'layer_0'},
        {'lm', 'embeddings', 'layer_0'},
        {'main'},  # on the language model's backbone
        {'main', 'layer_0'},
        {'main', 'layer_0', 'embeddings'},
    ]
    for name in ('general', 'target'):
        splits = experiment.sources[name].splits
        least = (8 * 2**6) ** (1 / 8)  # the first word is one of eight, the next six are one of two, the end is sure
        assert least < rows[f'{name}_lm']['validation/perplexity'] < 0.6 * unigram(splits['validation'], splits['train'])
    assert rows['thaw_2']['validation/accuracy'] > 0.6
    best = max(rows[name]['validation/accuracy'] for name in ('heads', 'thaw_1', 'thaw_2'))
    assert at.best == pytest.approx(best)  # of the task, whatever the perplexities were


def test_what_ulmfit_needs_is_told(ulmfit):
    del ulmfit.sources.general
    with pytest.raises(UserError, match=r"^phase 'general_lm': there are no data 'general'\. Describe them in config\.sources\.general, "):
        jtl.build(ulmfit)
    ulmfit.tune.ulmfit.general = 'target'
    ulmfit.tune.ulmfit.task = 'llm'
    with pytest.raises(
        UserError, match=r"^phase 'general_lm': there is no task 'llm'\. Describe it in config\.tasks\.llm, .* Did you mean 'lm'"
    ):
        jtl.build(ulmfit)


def test_masked_words_before_a_task(tmp_path):
    config = jtl.default_config()
    config.init_from = str(config_texts.bert(tmp_path / 'bert', 'bert.'))
    config.model.update(name='', pooler=False)
    config.task.pool = 'mean'
    config.data.update(name='text_csv', root=str(config_texts.table(tmp_path / 'texts.csv', 'label')))
    config.tasks.words = {'name': 'masked_lm', 'masked': 0.3}
    config.tune.recipe = ''
    config.phases = (
        {'name': 'adapt', 'steps': 60, 'train': (('.*', 'all'),), 'task': 'words'},
        {'name': 'task', 'steps': 120, 'train': (('.*', 'all'),)},
    )
    config.optimizer.update(name='adam', lr=0.02, schedule='constant')
    config.text.max_length = 16
    config.batch_size = 16
    experiment, leaves, rows, at, predict = trained(config, tmp_path / 'run')
    assert [moved(a, b) for a, b in pairwise(leaves)] == [
        {'words', 'embeddings', 'layer_0'},
        {'main', 'embeddings', 'layer_0'},
    ]
    before = jtl.evaluate(predict('words'), leaves[0], experiment, experiment.data.splits['validation'], head='words').metrics
    assert rows['adapt']['validation/perplexity'] < 0.75 * before['perplexity']
    assert rows['task']['validation/accuracy'] == at.best == 1.0
