"""Bytes flipped, files cut short or deleted below a run's checkpoints: the same result, or a refusal that says why; never another result."""

import random
import shutil
from collections import Counter
from pathlib import Path

import kept
import pytest
from test_resume import Break, config, files, go, same

from jtl.errors import UserError


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
    with kept.compilations(tmp_path_factory.mktemp('cache')):
        yield


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """A run that stopped after its second save (of steps 4 and 8, best ones beside), and what it would have ended with."""
    where, whole = files(tmp_path_factory.mktemp('stopped')), files(tmp_path_factory.mktemp('whole'))
    with pytest.raises(Break):
        go(where, config(), stop_after=2)
    assert sorted(int(path.name) for path in where.last.iterdir()) == [4, 8]
    return where, go(whole, config())[0]


def damage(root: Path, chance: random.Random) -> str:
    """Do one thing to one file; what was done."""
    path = chance.choice(sorted(p for p in root.rglob('*') if p.is_file() and p.stat().st_size))
    raw, what = bytearray(path.read_bytes()), chance.choice(['flipped', 'cut', 'deleted'])
    if what == 'deleted':
        path.unlink()
        return what
    place = chance.randrange(len(raw))
    if what == 'flipped':
        raw[place] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
    else:
        path.write_bytes(raw[:place])
    return what


def campaign(stopped, folder: Path, count: int, seed: int, capsys) -> Counter:
    (where, leaves), chance, found = stopped, random.Random(seed), Counter()
    for number in range(count):
        copy = files(folder, f'run_{number}')
        shutil.copytree(where.root, copy.root)
        what = damage(Path(copy.root) / 'checkpoints', chance)
        capsys.readouterr()
        try:
            ours, _ = go(copy, config())
        except UserError as error:  # anything else is a traceback, and fails the test
            assert str(copy.root) in str(error), error
            outcome = 'refused'
        else:
            said = capsys.readouterr().out
            outcome = (
                'the save before it' if 'from the save of step 4' in said else 'from the start' if 'from the start' in said else 'no matter'
            )
            assert same(ours, leaves), f'{what}, {outcome}: another result'
        found[what, outcome] += 1
        shutil.rmtree(copy.root)
    return found


def test_damage_is_noticed(stopped, tmp_path, capsys):
    found = campaign(stopped, tmp_path, 14, 3, capsys)
    assert sum(found.values()) == 14  # which files are hit is another matter each time: Orbax names them by chance


@pytest.mark.slow
def test_a_campaign_of_damage(stopped, tmp_path, capsys):
    found = campaign(stopped, tmp_path, 200, 0, capsys)
    with capsys.disabled():
        for (what, outcome), n in sorted(found.items()):
            print(f'\n{what:<8} {outcome:<20} {n}', end='')
        print()
    assert {what for what, _ in found} == {'flipped', 'cut', 'deleted'}
    assert sum(n for (_, outcome), n in found.items() if outcome != 'no matter') > 20  # most files hold what nobody reads
