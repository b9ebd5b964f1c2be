"""The plan on a terminal."""

from jtl.report.plan_text import plan_text


def leaf(path, size, status='new', source='', groups=('head',)):
    return {
        'path': path,
        'shape': [size],
        'dtype': 'float32',
        'bytes': 4 * size,
        'statistic': False,
        'status': status,
        'source': source,
        'how': '',
        'sharding': 'whole',
        'groups': list(groups),
        'lr': [0.1],
        'decay': [0.0],
    }


def test_repeated_layers_are_one_row_and_statuses_are_explained():
    blocks = [leaf(f'backbone/block_{k}/kernel', 7, 'renamed', f'layers.{k}.weight', ('frozen',)) for k in range(12)]
    group = {'optimizer': 'sgd', 'lr': 0.1, 'schedule': 'cosine', 'weight_decay': 0.0, 'leaves': 1, 'parameters': 3}
    text = plan_text(
        {
            'notes': ['A note.'],
            'phases': [{'name': 'probe', 'steps': 5, 'groups': {'head': group}, 'trainable_parameters': 3, 'optimizer_bytes': 12}],
            'leaves': [*blocks, leaf('heads/main/bias', 3)],
            'rules': [
                {'what': 'train', 'phase': 'probe', 'pattern': 'heads/.*', 'value': 'head', 'hits': 1, 'origin': 'recipe probe'},
                {'what': 'train', 'phase': 'probe', 'pattern': 'never', 'value': 'head', 'hits': 0, 'origin': 'recipe probe'},
            ],
            'ignored': ['fc.weight', 'fc.bias'],
            'totals': {
                'parameters': 87,
                'trainable': 3,
                'frozen': 84,
                'statistics': 0,
                'bytes': 348,
                'loaded': 0,
                'renamed': 12,
                'adapted': 0,
                'new': 1,
            },
        }
    )
    rows = text.splitlines()
    assert rows[0] == 'A note.'
    (row,) = [r for r in rows if r.startswith('backbone/')]
    assert row.split() == ['backbone/block_{0...11}/kernel', '7', 'float32', 'renamed', 'layers.{0...11}.weight', 'frozen']
    assert 'renamed: read from a key of another name, unchanged.' in rows
    assert not any('never' in r.split() for r in rows if 'recipe' in r)
    assert '87 parameters: 3 train in some phase, 84 never.' in text
    assert '12 renamed, 1 new.' in text


def test_where_leaves_are_split_is_a_column_where_any_is():
    totals = dict.fromkeys(('parameters', 'trainable', 'frozen', 'statistics', 'bytes', 'loaded', 'renamed', 'adapted', 'new'), 0)
    leaves = [leaf('backbone/kernel', 8), leaf('heads/main/bias', 3)]
    plan = {'notes': [], 'phases': [], 'leaves': leaves, 'rules': [], 'ignored': [], 'totals': totals}
    assert 'split over' not in plan_text(plan)
    split = {**plan, 'leaves': [{**leaves[0], 'sharding': 'fsdp'}, leaves[1]]}
    rows = plan_text(split).splitlines()
    assert [row.split()[-1] for row in rows if row.startswith(('leaf', 'backbone/', 'heads/'))] == ['over', 'fsdp', 'whole']
