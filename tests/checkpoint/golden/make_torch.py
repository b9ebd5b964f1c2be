"""Writes the golden torch files of this directory: `python tests/checkpoint/golden/make_torch.py` with torch 2.13.0.

test_torch_file.py says by itself what they hold.
"""

from collections import OrderedDict
from pathlib import Path

import torch


def content() -> dict:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        plain=base,
        transposed=base.t(),
        strided=base[1:3, ::2],
        shared=base.view(-1)[6:12],
        parameter=torch.nn.Parameter(torch.arange(3.0) + 0.5),
        half=torch.arange(5).half(),
        bf16=torch.arange(5).bfloat16() / 2,
        int8=torch.tensor([-1, 2], dtype=torch.int8),
        int64=torch.tensor([2**40, -3]),
        bool=torch.tensor([True, False, True]),
        scalar=torch.tensor(7.0, dtype=torch.float64),
        empty=torch.zeros(0, 3),
        expanded=torch.arange(3, dtype=torch.int32).expand(2, 3),
    )
    state._metadata = OrderedDict(version=1)
    return {'model_state': state, 'optimizer_state': {'lr': 0.125, 'slots': [torch.ones(2), None]}, 'epoch': 3, 'note': 'golden'}


if __name__ == '__main__':
    here = Path(__file__).parent
    torch.save(content(), here / 'zip.pth')
    torch.save(content(), here / 'legacy.pth', _use_new_zipfile_serialization=False)
