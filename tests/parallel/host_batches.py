"""Run by test_hosts.py as one of several hosts: prints the positions of the examples that each row of the first batches holds here, as JSON."""

import json
import os
import sys

from jtl.parallel.hosts import join

hosts = join(os.environ.get('JTL_HOSTS', ''), 60)

import jtl  # noqa: E402 - no device may be touched before

config = jtl.default_config()
config.model.update(channels=(2,), dense=(), image_size=8)
config.data.update(name='digits', classes=('0', '1', '2'))
config.steps, config.batch_size = 30, 16
feed, found = jtl.batches(jtl.build(config), first_step=int(sys.argv[1])), []
for _ in range(30):
    index = next(feed)['index']
    rows = {}
    for shard in index.addressable_shards:
        first = shard.index[0].start or 0
        rows |= {str(first + k): int(value) for k, value in enumerate(shard.data)}
    found.append(rows)
print(json.dumps(found), flush=True)
hosts.barrier('the end')
