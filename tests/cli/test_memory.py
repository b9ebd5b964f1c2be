"""Huge pages: the process begins again in its own place, once, and leaves a user's settings alone."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
from pathlib import Path
from jtl.cli.memory import use_huge_pages
sys.platform = 'linux'  # what is done there can be looked at anywhere
print(json.dumps([os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:]]), flush=True)
use_huge_pages(Path(sys.argv[1]))
"""


def starts(kernel, tunables):
    """What each start of the process saw of itself: process number, tunables, arguments."""
    environ = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'} | ({'GLIBC_TUNABLES': tunables} if tunables else {})
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(kernel), 'a b'], env=environ, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def madvise(tmp_path):
    path = tmp_path / 'enabled'
    path.write_text('always [madvise] never\n')
    return path


def test_begins_again_once_in_its_own_place_with_the_same_arguments(madvise):
    first, second = starts(madvise, '')
    assert first[1] is None
    assert second == [first[0], 'glibc.malloc.hugetlb=1', [str(madvise), 'a b']]


def test_other_settings_of_the_user_stay(madvise):
    assert [tunables for _, tunables, _ in starts(madvise, 'glibc.malloc.check=0')] == [
        'glibc.malloc.check=0',
        'glibc.malloc.check=0:glibc.malloc.hugetlb=1',
    ]


@pytest.mark.parametrize('kernel', ['[always] madvise never\n', 'always madvise [never]\n', None])
def test_goes_on_where_the_kernel_makes_it_useless(tmp_path, kernel):
    path = tmp_path / 'enabled'
    if kernel is not None:
        path.write_text(kernel)
    assert len(starts(path, '')) == 1


def test_a_user_who_says_no_is_heard(madvise):
    assert len(starts(madvise, 'glibc.malloc.hugetlb=0')) == 1
