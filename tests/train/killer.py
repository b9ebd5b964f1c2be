"""A process that kills itself: `python killer.py TARGET COUNT MOMENT jtl-arguments...` runs `jtl` with SIGKILL at an exact point.

TARGET is `module:qualified.name` of a function, MOMENT 'before' or 'after' its COUNT-th call, or a number of milliseconds after that
call, from a thread of its own: in the middle of what goes on in the background. `os:rename` counts the checkpoints' own alone.
"""

import functools
import importlib
import os
import signal
import sys
import threading


def main() -> int:
    target, count, moment = sys.argv[1:4]
    sys.argv = ['jtl', *sys.argv[4:]]
    from jtl.cli.main import main as jtl

    module, _, name = target.partition(':')
    *parents, attribute = name.split('.')
    holder = functools.reduce(getattr, parents, importlib.import_module(module))
    original, calls = getattr(holder, attribute), [0]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    def counted(*args, **kwargs):
        calls[0] += not target.startswith('os:') or 'checkpoints' in str(args[0])
        now = calls[0] == int(count)
        if now and moment == 'before':
            die()
        result = original(*args, **kwargs)
        if now and moment == 'after':
            die()
        if now:
            threading.Timer(int(moment) / 1000, die).start()
        return result

    setattr(holder, attribute, counted)
    return jtl()


if __name__ == '__main__':
    sys.exit(main())
