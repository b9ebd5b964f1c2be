import sys

import pytest

from jtl.errors import UserError
from jtl.names import lookup

TABLE = {'join': 'posixpath:join', 'split': 'posixpath:split'}


def test_own_names_modules_and_files(tmp_path, monkeypatch):
    import posixpath

    assert lookup('join', TABLE, 'model') is posixpath.join
    assert lookup('posixpath:basename', TABLE, 'model') is posixpath.basename
    (tmp_path / 'net.py').write_text('def tiny():\n    return 7\n')
    assert lookup(f'{tmp_path}/net.py:tiny', TABLE, 'model')() == 7
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert lookup('net.py:tiny', TABLE, 'model') is lookup('./net.py:tiny', TABLE, 'model') is lookup('~/net.py:tiny', TABLE, 'model')


def test_a_file_runs_once(tmp_path):
    (tmp_path / 'net.py').write_text('class Net: pass\ndef make(): return Net()\n')
    name = f'{tmp_path}/net.py'
    assert isinstance(lookup(f'{name}:make', {}, 'model')(), lookup(f'{name}:Net', {}, 'model'))


def test_a_table_is_imported_only_when_asked(tmp_path, monkeypatch):
    (tmp_path / 'lazy_jtl_test.py').write_text('def f(): return 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    table = {'f': 'lazy_jtl_test:f', 'g': 'no_such_module:g'}
    assert 'lazy_jtl_test' not in sys.modules
    assert lookup('f', table, 'model')() == 1


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('joim', r"^model\.name: there is no model 'joim'\. Did you mean 'join'\? Your own: "),
        ('', r'^model\.name: there is no model \'\'\. Known: join, split\. Your own: '),
        (None, r'^model\.name: there is no model None\.'),
        (3, r'^model\.name: there is no model 3\.'),
        ('posixpath:joim', r"^model\.name: posixpath has no function 'joim'\. Did you mean 'join'"),
        ('posixpath:sep', r"posixpath has no function 'sep'"),
        ('posixpath:', r"posixpath has no function ''"),
        ('no_such_module:f', r"there is no importable module 'no_such_module'"),
        ('posixpath.inner:f', r"there is no importable module 'posixpath.inner'"),
        (':f', r"there is no importable module ''"),
        ('.nets:f', r"there is no importable module '\.nets'"),
        ('..:f', r"there is no importable module '\.\.'"),
        ('nowhere/net.py:f', r'there is no file nowhere/net\.py \(looked for /.*/nowhere/net\.py\)'),
    ],
)
def test_wrong_names_are_told(name, says):
    with pytest.raises(UserError, match=says):
        lookup(name, TABLE, 'model')


def test_a_broken_file_says_where_and_is_not_kept(tmp_path):
    path = tmp_path / 'net.py'
    path.write_text('x = 1\ndef tiny(:\n')
    with pytest.raises(UserError, match=r'model\.name: .*net\.py, line 2: '):
        lookup(f'{path}:tiny', {}, 'model')
    path.write_text('def tiny(): return 7\n')
    assert lookup(f'{path}:tiny', {}, 'model')() == 7


def test_a_bug_of_the_users_code_keeps_its_own_exception(tmp_path):
    (tmp_path / 'net.py').write_text('1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        lookup(f'{tmp_path}/net.py:tiny', {}, 'model')
    (tmp_path / 'other.py').write_text('import no_such_module_either\n')
    with pytest.raises(ModuleNotFoundError, match='no_such_module_either'):
        lookup(f'{tmp_path}/other.py:tiny', {}, 'model')
