import numpy as np

from jtl.report.compare import compare_report, compare_table


def test_table_for_the_terminal(comparison):
    text = compare_table(comparison)
    lines = text.splitlines()
    values = comparison['recipes']['probe']['test/accuracy']['values']
    row = next(line for line in lines if line.startswith('probe '))
    assert f'{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}' in row
    assert '12.8 k' in row and '102 kB' in row
    assert lines[0].split()[0] == 'recipe' and len({len(line) for line in lines[:2]}) == 1
    assert 'Negative transfer: last is worse than training from scratch' in text
    low, high = comparison['paired']['lp_ft - scratch']['ci95']
    assert f'{100 * low:+.1f} to {100 * high:+.1f}' in text


def test_page(comparison, read):
    links = {f'{name}/seed_0': f'{name}/seed_0/report.html' for name in comparison['recipes']}
    document = read(compare_report(comparison, links))
    assert set(links.values()) <= set(document.targets)
    assert len(document.sources) == 2
    for sentence in comparison['verdict']:
        assert sentence in document.text


def test_names_are_escaped(comparison, read):
    comparison['recipes']['<script>'] = comparison['recipes'].pop('last')
    comparison['verdict'] = ['<script>alert(1)</script>']
    document = read(compare_report(comparison, {'<script>': '"><script>'}))
    assert '<script>alert(1)</script>' in document.text


def test_one_seed_other_metrics_and_nothing_paired(read):
    figures = {'test/rmse': {'mean': 1.23456, 'std': 0.0, 'values': [1.23456]}, 'test/loss': {'mean': 2.0, 'std': 0.0, 'values': [2.0]}}
    bare = {'recipes': {'probe': figures}, 'primary': 'test/rmse', 'maximize': False, 'seeds': [0]}
    assert compare_table(bare).splitlines()[2].split() == ['probe', '1.235', '2', '–', '–', '–']
    read(compare_report(bare, {}))


def test_a_loss_that_is_the_nll_once_more_is_not_shown_twice(comparison):
    for figures in comparison['recipes'].values():
        figures['test/nll'] = dict(figures['test/loss'])
    assert 'test/nll' in compare_table(comparison) and 'test/loss' not in compare_table(comparison)
    comparison['recipes']['probe']['test/loss'] = {'mean': 9.0, 'std': 0.5, 'values': [8.5, 9.5]}  # as with label smoothing
    assert 'test/nll' in compare_table(comparison) and 'test/loss' in compare_table(comparison)
