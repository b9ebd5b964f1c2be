"""Huge pages for what a CPU computes with; on GPUs and TPUs they change nothing."""

import os
import sys
from pathlib import Path

TUNABLE = 'glibc.malloc.hugetlb'
_KERNEL = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def use_huge_pages(kernel: Path = _KERNEL) -> None:
    """Begin this process again, in its own place, with glibc asking the kernel for huge pages; returns where that is so already, or no use.

    XLA on a CPU takes a step's memory from malloc and gives it back when the step is done, so its pages are mapped anew each time. With
    pages of 4 KB that took half of the time of a training step of EfficientNet-Lite0. glibc reads the setting when a process begins
    and offers no call for it later. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` in the environment keeps things as they are.

    Args:
      kernel: the file that says what the kernel does: huge pages for who asks for them ([madvise]), for all, or for none.
    """
    given = os.environ.get('GLIBC_TUNABLES', '')
    if sys.platform != 'linux' or TUNABLE in given or not kernel.exists() or '[madvise]' not in kernel.read_text():
        return
    os.environ['GLIBC_TUNABLES'] = ':'.join(part for part in (given, f'{TUNABLE}=1') if part)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
