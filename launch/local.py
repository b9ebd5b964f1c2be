#!/usr/bin/env python3
"""Several processes on this machine that train one model, each with several devices: what a pod does, in small.

    launch/local.py --processes=2 --devices=4 -- train --config=configs/quickstart.py --workdir=runs/two

Everything behind `--` is a command of jtl. Every process is told who it is in JTL_HOSTS; on CPUs each makes itself `--devices` devices, on
GPUs each sees its own `--devices` of them. What they print comes out line by line, with the number of the process before it. When one fails,
the others are ended; the exit status is that of the first that failed, and 75 (start the same command again) where a signal ended it.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

JTL = (sys.executable, '-m', 'jtl.cli.main')
AGAIN = 75
GRACE = 30.0  # seconds from SIGTERM to SIGKILL: a checkpoint is written in them


def environment(index: int, count: int, devices: int, port: int, platform: str) -> dict[str, str]:
    """What process `index` of `count` finds in its environment."""
    found = {'JTL_HOSTS': f'127.0.0.1:{port},{count},{index}', 'PYTHONUNBUFFERED': '1'}
    if platform == 'cpu':
        flags = os.environ.get('XLA_FLAGS', '')
        found |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count={devices}'.strip()}
    else:
        found['CUDA_VISIBLE_DEVICES'] = ','.join(map(str, range(index * devices, (index + 1) * devices)))
    return found


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


def follow(process: subprocess.Popen[str], name: str) -> threading.Thread:
    """A thread that prints what a process writes, line by line, with its name before it."""

    def run() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(f'[{name}] {line}')
            sys.stdout.flush()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def wait(processes: Sequence[subprocess.Popen[str]]) -> tuple[int, int]:
    """The first process that failed and its status, negative for a signal; (-1, 0) where all ended well."""
    while True:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code:
                return index, code
        if all(code == 0 for code in codes):
            return -1, 0
        time.sleep(0.1)


def end(processes: Sequence[subprocess.Popen[str]], grace: float) -> None:
    """Ask those that still run to stop, and end them where they do not in time."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    limit = time.monotonic() + grace
    while time.monotonic() < limit and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--processes', type=int, default=2, metavar='N', help='how many (default: 2)')
    parser.add_argument('--devices', type=int, default=1, metavar='M', help='devices of each (default: 1)')
    parser.add_argument('--platform', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    parser.add_argument('--dry-run', action='store_true', help='print what would be started')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND', help='a command of jtl and its arguments')
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ['--'] else args.command
    if not command or args.processes < 1 or args.devices < 1:
        parser.error('give a command of jtl behind --, and at least one process and device')
    port = free_port()
    environments = [environment(index, args.processes, args.devices, port, args.platform) for index in range(args.processes)]
    started = [*JTL, *command]
    if args.dry_run:
        for found in environments:
            print(' '.join([*(f"{name}='{value}'" for name, value in found.items()), *started]))
        return 0
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True, 'errors': 'replace'}
    processes = [subprocess.Popen(started, env={**os.environ, **found}, **pipes) for found in environments]
    threads = [follow(process, str(index)) for index, process in enumerate(processes)]

    def asked(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)  # they end, and so do we
    index, code = wait(processes)
    if index >= 0:
        how = f'was ended by {signal.Signals(-code).name}' if code < 0 else f'ended with status {code}'
        others = ', the others are ended' if any(process.poll() is None for process in processes) else ''
        print(f'launch: process {index} of {args.processes} {how}{others}.', flush=True)
    end(processes, GRACE)
    for thread in threads:
        thread.join(5)
    return code if code >= 0 else AGAIN


if __name__ == '__main__':
    sys.exit(main())
