"""Kills at random times, of one process and of several: nothing is lost but the steps since the last checkpoint, and the end is bit for bit the same.

    python tests/benchmarks/kills.py [--kills 100] [--seed 0] [--keep DIR]

The run is the one of tests/train/test_kill.py (two phases, averages, the best on validation, accumulation, BatchNorm). It is started on one process
with one device, on 2 processes with 2 devices and on 4 with 1 (launch/local.py), each in turn. At a random time one process gets SIGKILL or
SIGTERM; the same command is given again until the run is finished; then its bundle, metrics and plan are compared with those of a run on the
same topology that nothing disturbed. A difference ends the script with status 1. tests/train/test_kill.py is its short form.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'train'))
sys.path.insert(0, str(Path(__file__).parents[1] / 'launch'))
import test_kill
from loaded import LAUNCH

TOPOLOGIES = {'1 x 1': (1, 1), '2 x 2': (2, 2), '4 x 1': (4, 1)}
FINISHED = 5  # kills of a run before it may finish


class Launched(test_kill.Runs):
    """Runs of a topology, each by launch/local.py."""

    def __init__(self, folder: Path, processes: int, devices: int):
        super().__init__(folder)
        self.launcher = [sys.executable, str(LAUNCH / 'local.py'), f'--processes={processes}', f'--devices={devices}', '--']

    def begin(self, name: str) -> subprocess.Popen[str]:
        """Start it, or go on."""
        command = [*self.launcher, 'train', f'--config={self.folder / "config.py"}', f'--workdir={self.folder / name}', '--host-timeout=20']
        return subprocess.Popen(command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def disturbed(runs: Launched, name: str, seconds: float, chance: random.Random) -> str:
    """Start the run and send one of its processes a signal at a random time; what came of it."""
    started = runs.begin(name)
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    try:
        started.wait(chance.uniform(0.2, 1.0) * seconds)
    except subprocess.TimeoutExpired:
        found = subprocess.run(['pgrep', '-P', str(started.pid)], capture_output=True, text=True, check=False).stdout.split()
        if found:
            subprocess.run(['kill', f'-{int(number)}', chance.choice(found)], check=False)
    output, _ = started.communicate(timeout=300)
    if started.returncode not in (0, 75, 143):
        raise SystemExit(f'{name}: status {started.returncode}\n{output[-3000:]}')
    return 'finished' if started.returncode == 0 else number.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', type=Path, help='a directory in which everything stays')
    args = parser.parse_args()
    chance, kills, compared = random.Random(args.seed), Counter(), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        top = args.keep or Path(temporary)
        runs, seconds = {}, {}
        for name, (processes, devices) in TOPOLOGIES.items():
            folder = top / name.replace(' ', '')
            folder.mkdir(parents=True)
            runs[name] = Launched(folder, processes, devices)
            for reference in ('whole', 'warm'):
                began = time.monotonic()
                started = runs[name].begin(reference)
                output, _ = started.communicate(timeout=600)
                if started.returncode:
                    raise SystemExit(f'{name}: status {started.returncode}\n{output[-3000:]}')
                seconds[name] = time.monotonic() - began
            test_kill.same(runs[name], 'warm')
        while sum(kills.values()) < args.kills:
            name = min(TOPOLOGIES, key=lambda name: compared[name])
            run = f'run_{compared[name]}'
            for k in range(100):
                what = disturbed(runs[name], run, seconds[name] if k < FINISHED else 100 * seconds[name], chance)
                if what == 'finished':
                    break
                kills[name, what] += 1
            test_kill.same(runs[name], run)
            compared[name] += 1
            print(f'{name}: {run} is the same after {k} kills; {sum(kills.values())} so far', flush=True)
    for (name, what), n in sorted(kills.items()):
        print(f'{name}  {what:<8} {n}')
    print(f'{sum(kills.values())} kills, {sum(compared.values())} runs compared with undisturbed ones: no difference.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
