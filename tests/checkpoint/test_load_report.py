import jax
import numpy as np

from jtl.checkpoint.adapt import NameTable, Source, adapt
from jtl.checkpoint.base import Checkpoint
from jtl.checkpoint.load_report import PROBLEMS, STATUSES, Problem, load_table, load_text, load_totals, problem_text
from jtl.rules import as_rules


def spec(*shape, dtype='float32'):
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


def source(specs, rules, head=(), ignore=(), prefix=''):
    def never(key):
        raise AssertionError(f'{key} was read')

    table = NameTable('other', (), as_rules(rules, optional=True), as_rules(head, optional=True), ignore, prefix)
    return Source(Checkpoint('w.pth', 'torch zip', specs, never), table)


def example():
    """Twelve layers with a kernel (adapted, of two widths) and a float16 bias (renamed and cast), a tied pair, a native leaf, a head."""
    targets = {'backbone/same': spec(7)}
    specs = {'backbone/same': spec(7), 'emb': spec(5, 2), 'fc.w': spec(3, 3), 'junk.1': spec(4), 'junk.2': spec(6)}
    for i in range(12):
        width = 2 if i < 6 else 3
        targets |= {f'backbone/block_{i}/kernel': spec(4, width), f'backbone/block_{i}/bias': spec(width)}
        specs |= {f'layer.{i}.w': spec(width, 4), f'layer.{i}.b': spec(width, dtype='float16')}
    targets |= {'backbone/in/embedding': spec(5, 2), 'backbone/out/embedding': spec(5, 2), 'heads/main/kernel': spec(2, 2)}
    rules = [
        (r'backbone/block_(\d+)/kernel', (r'layer.\1.w', ('transpose', 1, 0))),
        (r'backbone/block_(\d+)/bias', r'layer.\1.b'),
        ('backbone/in/.*', 'emb'),
        ('backbone/out/.*', 'emb'),
        ('backbone/same', 'backbone/same'),
    ]
    return targets, source(specs, rules, [('heads/.*', 'fc.w')], (r'junk\.\d',))


def test_table_collapses_layers_and_says_what_is_done():
    targets, made = example()
    rows = load_table(adapt(targets, {'': made}))
    assert [row[:7] for row in rows] == [
        ('backbone/same', 'loaded', 'backbone/same', '', '(7,)', 1, 7),
        ('backbone/block_{0...11}/kernel', 'adapted', 'layer.{0...11}.w', 'transpose(1, 0)', '', 12, 6 * 8 + 6 * 12),
        ('backbone/block_{0...11}/bias', 'renamed', 'layer.{0...11}.b', 'cast float16 to float32', '', 12, 6 * 2 + 6 * 3),
        ('backbone/in/embedding', 'renamed', 'emb', 'tied', '(5, 2)', 1, 10),
        ('backbone/out/embedding', 'renamed', 'emb', 'tied', '(5, 2)', 1, 10),
        ('heads/main/kernel', 'new', '', '', '(2, 2)', 1, 4),
        ('fc.w', 'ignored', '', 'the head is not kept', '(3, 3)', 1, 9),
        ('junk.{1,2}', 'ignored', '', r'other: junk\.\d', '', 2, 10),
    ]
    assert sorted(m for row in rows if row.status != 'ignored' for m in row.members) == sorted(targets)
    assert load_totals(rows) == {
        'loaded': {'leaves': 27, 'values': 7 + 120 + 30 + 20},
        'new': {'leaves': 1, 'values': 4},
        'ignored': {'leaves': 3, 'values': 19},
    }


def test_text_has_rows_legend_of_what_occurs_and_totals():
    targets, made = example()
    text = load_text(adapt(targets, {'': made}))
    lines = text.splitlines()
    assert lines[0] == 'whole model: w.pth (torch zip), names by other'
    assert lines[-1] == 'Leaves: loaded 27 (177 values), new 1 (4 values), ignored 3 (19 values).'
    assert sum('backbone/block_{0...11}' in line for line in lines) == 2
    assert all(f'{status}: {says}.' in lines for status, says in STATUSES.items())
    kept = load_text(adapt(targets | {'heads/main/kernel': spec(3, 3)}, {'': made}, head='keep'))
    assert 'new: ' not in kept
    assert kept.splitlines()[-1] == 'Leaves: loaded 28 (186 values), ignored 2 (10 values).'


def test_two_sources_with_equal_keys_are_told_apart():
    one = source({'m.a': spec(2), 'm.junk': spec(1)}, [('backbone/a', 'a')], ignore=('junk',), prefix='m.')
    two = source({'a': spec(2), 'm.junk': spec(1)}, [], [('heads/a', 'a')], ignore=('m.junk',))
    found = adapt({'backbone/a': spec(2), 'heads/a': spec(2)}, {'backbone': one, 'heads': two})
    assert [row.key for row in load_table(found)[:2]] == ['m.a', 'a']
    assert sum(row.leaves for row in load_table(found) if row.status == 'ignored') == 2
    text = load_text(found)
    assert "backbone: w.pth (torch zip), names by other below 'm.'" in text
    assert 'heads: w.pth (torch zip), names by other\n' in text


def test_problems_are_counted_collapsed_explained_and_limited():
    sources = {'': source({f'layers.{i}.weight': spec(i + 1) for i in range(3)}, [])}
    problems = [
        Problem('rule', 'A whole sentence.'),
        Problem('unexpected', 'layer.00.weight', '(1,) float32'),
        *(
            Problem('mismatched', f'backbone/block_{i}/kernel', f'({i},) float32, needed (9,) float32', f'layers.{i}.weight')
            for i in range(3)
        ),
        *(
            Problem('missing', f'backbone/{chr(97 + i // 26)}{chr(97 + i % 26)}', 'the checkpoint has no such key', 'layer.0.weight')
            for i in range(40)
        ),
    ]
    lines = problem_text(problems, sources, 99).splitlines()
    assert lines[:2] == ['w.pth (other) does not fit the model of 99 leaves: 40 missing, 3 mismatched, 1 unexpected.', 'A whole sentence.']
    row = next(line for line in lines if line.startswith('  mismatched'))
    assert row.split(maxsplit=3) == [
        'mismatched', 'backbone/block_{0...2}/kernel', 'layers.{0...2}.weight', '(0,) float32, needed (9,) float32 (the first)',
    ]  # fmt: skip
    missing = [line for line in lines if line.startswith('  missing')]
    assert len(missing) == 31
    assert '... and 10 more' in missing[-1]
    assert missing[0].endswith('nearest of the unread layer.00.weight')  # not layers.0.weight, which is read
    assert [line.split(':')[0] for line in lines[-3:]] == ['missing', 'mismatched', 'unexpected']
    assert all('config.init_' in says or 'rule' in says for says in PROBLEMS.values())
