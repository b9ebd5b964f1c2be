"""Runs on text from the config to the report, on generated texts: what is trained, evaluated, written, and gone on with."""

import contextlib
import io
import json
import re

import jax
import kept
import numpy as np
import pytest
import texts
from safetensors.numpy import load_file
from seqeval.metrics import f1_score
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers

import jtl
from jtl.bundle import load_bundle
from jtl.cli.main import main
from jtl.data.pipeline import eval_batches, train_batches
from jtl.errors import UserError
from jtl.train.resume import RunStore
from jtl.train.run import run

SPECIAL = ('[PAD]', '[UNK]', '[MASK]')


class Stop(Exception):  # noqa: N818
    """Ends a training where a test wants it."""


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
    """Compiling is most of these tests: with little effort, and what several runs compile is kept on disk meanwhile."""
    cache = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patched, kept.compilations(cache, optimized=False):
        patched.setenv('JAX_COMPILATION_CACHE_DIR', str(cache))  # of commands
        yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('texts')
    texts.table(folder / 'texts.csv')
    texts.columns(folder / 'columns')
    texts.checkpoint(folder / 'source')
    return folder


@pytest.fixture(scope='module')
def classes(folder):
    """The config of a classifier that starts from a checkpoint, whose tokenizer it takes."""
    return texts.config(
        'text_csv',
        folder / 'texts.csv',
        buckets=(7, 12),
        init_from=str(folder / 'source'),
        eval_every=4,
        checkpoint_every=3,
        evaluators=('knn', 'linear'),
        probe={'k': 3},
    )


def go(config, where):
    """Run; result.json, and all that was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        result = run(config, str(where))
    return result, said.getvalue()


@pytest.fixture(scope='module')
def whole(folder, classes):
    """The run of that config, and what it said."""
    return folder / 'whole', *go(classes, folder / 'whole')


def command(capsys, *arguments):
    """What a command prints, which must succeed."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def test_a_run_from_a_checkpoint_and_what_is_done_with_it(folder, classes, whole, capsys):
    root, result, _ = whole
    assert {path.name for path in root.iterdir()} == {
        'config.json', 'plan.json', 'metrics.jsonl', 'result.json', 'report.html', 'bundle', 'checkpoints', 'tensorboard', 'features'
    }  # fmt: skip
    assert json.loads((root / 'result.json').read_text()) == result
    assert {'train/accuracy', 'validation/accuracy', 'test/accuracy', 'test/loss', 'test/knn_accuracy'} < set(result['metrics'])
    assert (root / 'bundle' / 'tokenizer.json').exists()
    report = (root / 'report.html').read_text()
    assert any(' '.join(words) in report for words in texts.sentences(texts.SIZES['test'], 2, 10)[:5] if len(words) > 3)
    assert 'Filled up each to its own bucket (7, 12), ' in report

    out = command(capsys, 'evaluate', root, '--json')
    metrics = json.loads(out)
    assert metrics == pytest.approx({name: result['metrics'][name] for name in metrics}, abs=1e-5)
    assert {name.partition('/')[0] for name in metrics} == {'validation', 'test'}
    out = command(capsys, 'probe', root, '--json')
    assert json.loads(out)['metrics'] == pytest.approx(
        {name: value for name, value in result['metrics'].items() if 'knn' in name or 'linear' in name}
    )
    lines = (folder / 'texts.csv').read_text().splitlines()
    (folder / 'test.csv').write_text('\n'.join([lines[0], *(line for line in lines if line.endswith(',test'))]))
    rows = command(capsys, 'predict', root / 'bundle', folder / 'test.csv').splitlines()
    right = [
        row.split('\t')[1] == line.split(',')[1] for row, line in zip(rows, (folder / 'test.csv').read_text().splitlines()[1:], strict=True)
    ]
    assert np.mean(right) == pytest.approx(result['metrics']['test/accuracy'])


def test_compilations_are_told_and_no_more_than_buckets(classes, whole):
    (told,) = re.findall(r'Phase full: the step was compiled (\d) times: (.*)\.', whole[2])
    widths = {int(width) for width in re.findall(r'ids 8 x (\d+)', told[1])}
    feed = jtl.batches(jtl.build(classes))
    assert widths == {next(feed)['ids'].shape[1] for _ in range(8)} == {7, 12}
    assert told[0] == '2'


def content(root):
    """All of a finished run that must not depend on where it was stopped."""
    rows = [json.loads(line) for line in (root / 'metrics.jsonl').read_text().splitlines()]
    return {
        'model': (root / 'bundle' / 'model.safetensors').read_bytes(),
        'bundle': (root / 'bundle' / 'bundle.json').read_text(),
        'rows': [{key: value for key, value in row.items() if key != 'examples_per_second'} for row in rows],
        'result': {key: value for key, value in json.loads((root / 'result.json').read_text()).items() if key != 'seconds'},
        'plan': (root / 'plan.json').read_text(),
    }


def test_a_stopped_run_goes_on_without_its_checkpoint_and_tokenizer(folder, classes, whole, monkeypatch):
    seen = []

    def recorded(*args, batches=jtl.batches):
        for batch in batches(*args):
            seen.append(jax.device_get(batch))
            yield batch

    monkeypatch.setattr('jtl.train.loop.batches', recorded)
    monkeypatch.setattr('jtl.train.run.run_report', lambda record: 'not drawn here: that takes seconds')
    save = RunStore.save
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(RunStore, 'save', lambda *args: (save(*args), (_ for _ in ()).throw(Stop))[0])
        go(classes, folder / 'stopped')
    assert len(seen) == 3
    (folder / 'source').rename(folder / 'moved')
    try:
        longer = classes.copy_and_resolve_references()
        longer.text.max_length = 12
        with pytest.raises(UserError, match=r'config\.text\.max_length: 0 in the run, 12 now'):
            go(longer, folder / 'stopped')
        _, said = go(classes, folder / 'stopped')
    finally:
        (folder / 'moved').rename(folder / 'source')
    assert 'Resumed at step 3: phase full, step 3.' in said
    ours, theirs = content(folder / 'stopped'), content(whole[0])
    assert [name for name in ours if ours[name] != theirs[name]] == []
    feed = jtl.batches(jtl.build(classes))
    assert len(seen) == 8
    for batch, unbroken in zip(seen, feed, strict=False):
        assert all(np.array_equal(batch[name], unbroken[name]) for name in unbroken)


def test_a_vocabulary_of_0_in_the_config_is_the_tokenizers_on_resume_too(folder, tmp_path):
    config = texts.config('text_csv', folder / 'texts.csv', {'vocab_size': 0})
    begun = jtl.build(config)
    again = jtl.build(config, stored=json.loads(json.dumps(begun.plan.to_json())))
    assert again.model == begun.model and again.model['vocab_size'] == 4 + len(texts.WORDS)
    assert again.preprocessing == begun.preprocessing and dict(again.net.shapes) == dict(begun.net.shapes)


def test_what_the_features_of_a_run_are_worth(folder, classes, whole):
    """Features read by hand, one text after the other without filling, and scikit-learn on them."""
    root, result, _ = whole
    bundle, data = load_bundle(str(root)), jtl.build(classes).data
    rows = by_hand(bundle.net, bundle.leaves, data)
    features = {name: np.array([pooled for pooled, _ in found], np.float64) for name, found in rows.items()}
    kept = {path.name.partition('-')[0]: load_file(path)['features'] for path in (root / 'features').iterdir()}
    for name, values in features.items():
        np.testing.assert_allclose(kept[name], values, atol=1e-6)
    targets = {name: split.targets for name, split in data.splits.items()}
    near = KNeighborsClassifier(3, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / 0.07))
    linear = make_pipeline(StandardScaler(), RidgeClassifier(result['evaluators']['linear']['l2']))
    for name, model in (('knn', near), ('linear', linear)):
        model.fit(features['train'], targets['train'])
        for split in ('validation', 'test'):
            assert result['metrics'][f'{split}/{name}_accuracy'] == pytest.approx(model.score(features[split], targets[split]))


def by_hand(net, leaves, data):
    """For every split, of each example by itself, filled up to the longest: the features (or None) and the outputs, in the order of the split."""

    width = max(texts.BUCKETS)

    @jax.jit
    def apply(inputs):
        modes = {'stop': 'pooling'} if 'pooling' in [stage.name for stage in net.backbone.stages] else {}
        variables = {'params': jtl.models.base.unflatten({path: leaves[path] for path in net.params}, 'backbone')}
        pooled = net.backbone.apply(variables, inputs, **modes).get('pooled')
        return pooled, net.apply(leaves, inputs)[0]['main']

    def one(example):
        ids = example['ids']
        inputs = {'ids': np.zeros((1, width), np.int32), 'mask': np.arange(width)[None] < len(ids)}
        inputs['ids'][0, : len(ids)] = ids
        if 'word_starts' in example:
            inputs['word_starts'] = np.full((1, width), -1, np.int32)
            inputs['word_starts'][0, : len(example['word_starts'])] = example['word_starts']
        return tuple(np.asarray(x[0]) for x in apply(inputs))

    return {name: [one(split.examples[k]) for k in range(len(split))] for name, split in data.splits.items()}


def random_leaves(experiment):
    random = np.random.default_rng(0)
    return {path: jax.numpy.asarray(random.normal(0, 1, spec.shape), spec.dtype) for path, spec in experiment.net.shapes.items()}


@pytest.mark.parametrize('data', ['text_csv', 'conll'])
def test_an_evaluation_is_of_each_example_once_in_its_place(folder, data):
    """Whatever batches it comes in: they are sorted by length, filled up to a bucket, and the last one with copies."""
    of_words = data == 'conll'
    place = folder / ('columns' if of_words else 'texts.csv')
    experiment = jtl.build(texts.config(data, place, buckets=texts.BUCKETS, task={'name': 'token_classification'} if of_words else {}))
    leaves, split = random_leaves(experiment), experiment.data.splits['validation']
    found = jtl.evaluate(jtl.prediction_step(experiment), leaves, experiment, split)
    outputs = [row for _, row in by_hand(experiment.net, leaves, experiment.data)['validation']]
    assert len(found.outputs) == len(split) == 13 and len({len(split.examples[k]['ids']) for k in range(13)}) > 4
    losses = []
    for k, (row, label) in enumerate(zip(outputs, split.targets, strict=True)):
        real = np.flatnonzero(label >= 0) if of_words else slice(None)
        np.testing.assert_allclose(found.outputs[k][real], row[real], atol=1e-5)
        each, wanted = (row[real], label[real]) if of_words else (row[None], label[None])
        odds = np.exp(each.astype(np.float64))
        losses.append(-np.log(odds[np.arange(len(wanted)), wanted] / odds.sum(axis=1)).mean())
    np.testing.assert_allclose(found.losses, losses, atol=1e-5)
    assert found.metrics['loss'] == pytest.approx(np.mean(losses), abs=1e-5)
    if not of_words:
        assert found.metrics['accuracy'] == pytest.approx(np.mean([row.argmax() for row in outputs] == split.targets))


def test_worker_processes_and_hosts_change_nothing(folder):
    experiment = jtl.build(texts.config('conll', folder / 'columns', buckets=texts.BUCKETS, task={'name': 'token_classification'}))
    splits, reading = experiment.data.splits, experiment.preprocessing

    def read(workers):
        feed = train_batches(splits['train'], batch_size=4, seed=3, first_step=9, preprocessing=reading, workers=workers)
        return [next(feed) for _ in range(4)] + list(eval_batches(splits['test'], batch_size=4, preprocessing=reading, workers=workers))

    here, there = read(0), read(2)
    assert len(here) == len(there) == 7 and len({batch['ids'].shape for batch in here}) > 1
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    of_hosts = [
        train_batches(splits['train'], batch_size=4, seed=3, first_step=9, preprocessing=reading, rows=range(k, k + 2)) for k in (0, 2)
    ]
    for whole, *parts in zip(here[:4], *of_hosts, strict=False):
        assert all(np.array_equal(whole[name], np.concatenate([part[name] for part in parts])) for name in whole)


def test_a_run_that_tags_words(folder, tmp_path):
    config = texts.config(
        'conll',
        folder / 'columns',
        {'embedding': 8, 'hidden': 8},
        task={'name': 'token_classification'},
        tasks={'lm': {'name': 'causal_lm'}},  # which no phase trains
        steps=80,
        optimizer={'name': 'adam', 'lr': 0.1},
    )
    result, said = go(config, tmp_path)
    assert 'note: tags: read as' in said
    bundle = load_bundle(str(tmp_path))
    heads = {path.split('/')[1] for path in load_file(tmp_path / 'bundle' / 'model.safetensors') if path.startswith('heads/')}
    assert heads == {'main'}
    tagged = texts.sentences(texts.SIZES['test'], 2)
    predicted = [row['tags'] for row in bundle.predict(tagged)]
    true = [[texts.TAGS.get(word, 'O') for word in words] for words in tagged]
    assert [len(row) for row in predicted] == [len(row) for row in true]
    assert result['metrics']['test/f1'] == pytest.approx(f1_score(true, predicted)) and result['metrics']['test/f1'] > 0.5
    assert result['primary'] == 'f1' and result['baseline']['test/f1'] == 0
    report = re.sub(r'<[^>]+>', ' ', (tmp_path / 'report.html').read_text())
    count = sum(tag == 'B-person' for row in true for tag in row)
    assert re.search(rf'\bperson\s[^a-z]*\b{count}\b', report)


def test_a_run_that_is_a_masked_language_model(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('jtl.train.run.run_report', lambda record: f'{record.kind} {sorted(record.lengths)}')
    words = {name: number for number, name in enumerate((*SPECIAL, *texts.WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    (tmp_path / 'lines.txt').write_text('\n'.join(' '.join(words) for words in texts.sentences(60, 5)))
    config = texts.config('text_lines', tmp_path / 'lines.txt', task={'name': 'masked_lm'}, steps=4)
    config.text.tokenizer = str(tmp_path / 'tokenizer.json')
    result, said = go(config, tmp_path / 'run')
    assert {f'{split}/{name}' for split in ('train', 'validation', 'test') for name in ('loss', 'perplexity', 'accuracy')} == set(
        result['metrics']
    )
    assert result['baseline'] == {} and result['primary'] == 'perplexity' and not result['maximize']
    assert 1 < result['metrics']['test/perplexity'] < 100 and re.search(r'Validation at step 4: perplexity [\d.]+, loss', said)
    assert (tmp_path / 'run' / 'report.html').read_text() == "masked_lm ['test', 'train', 'validation']"
    metrics = json.loads(command(capsys, 'evaluate', tmp_path / 'run', '--json'))
    assert metrics['test/perplexity'] == pytest.approx(result['metrics']['test/perplexity'], rel=1e-5)


def test_empty_texts_are_named_and_left_out(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('jtl.train.run.run_report', lambda record: ' '.join(record.notes))
    place = texts.table(tmp_path / 'texts.csv', lambda split, k, text: '' if (split, k) in (('train', 5), ('test', 2)) else text)
    config = texts.config('text_csv', place, steps=2)
    with pytest.raises(UserError) as refused:
        go(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    lines = [f'  texts.csv, line {line}: the text is empty.' for line in (7, 2 + texts.SIZES['train'] + texts.SIZES['validation'] + 2)]
    assert str(refused.value).splitlines()[1:] == [*lines, 'Mend or remove them, or set data.max_unreadable=2 to leave them out.']
    config.data.max_unreadable = 2
    result, said = go(config, tmp_path / 'run')
    assert all(f'warning: left out:{line[1:]}' in said for line in lines) and 'left out' in (tmp_path / 'run' / 'report.html').read_text()
    assert re.search(r'^all +43 +13 +10$', said, re.MULTILINE) and result['steps'] == 2
    metrics = json.loads(command(capsys, 'evaluate', tmp_path / 'run', '--json'))
    assert metrics['test/accuracy'] == pytest.approx(result['metrics']['test/accuracy']) and metrics[
        'test/accuracy'
    ] * 10 % 1 == pytest.approx(0)
