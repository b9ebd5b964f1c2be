"""Collectives read from lines as XLA writes them for CPUs, GPUs and TPUs."""

import pytest

from jtl.parallel.collectives import Collective, collectives_of

AXES = ('dcn', 'data', 'fsdp', 'tensor')
SHAPE = (1, 2, 4, 2)  # devices 0 to 15, tensor fastest


@pytest.mark.parametrize(
    ('line', 'kind', 'size', 'group', 'axes'),
    [
        ('%a = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3},{4,5}}, to_apply=%add', 'all-reduce', 128, 2, ('tensor',)),
        ('%a = f32[8,4]{1,0} all-reduce(%x), replica_groups=[8,2]<=[16], to_apply=%add', 'all-reduce', 128, 2, ('tensor',)),
        ('%a = f32[8]{0} all-reduce(%x), replica_groups=[4,4]<=[2,4,2]T(0,2,1), to_apply=%add', 'all-reduce', 32, 4, ('fsdp',)),
        ('%a = f32[8]{0} all-reduce(%x), replica_groups=[1,16]<=[16], to_apply=%add', 'all-reduce', 32, 16, ('data', 'fsdp', 'tensor')),
        ('%a = (f32[], bf16[3]{0}) all-reduce(%x, %y), replica_groups={}, to_apply=%add', 'all-reduce', 10, 16, ('data', 'fsdp', 'tensor')),
        ("%a = bf16[8,4]{0,1:T(8,128)(2,1)S(1)} all-gather(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4,'axis_2'=2] {'axis_1'}, dimensions={1}",
         'all-gather', 64, 4, ('fsdp',)),
        ("%a = f32[8]{0} all-reduce(%x), replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0'}, to_apply=%add", 'all-reduce', 32, 8, ('data', 'fsdp')),
        ('%a = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}', 'all-gather', 32, 4, ('fsdp',)),
        ('%a = f32[2]{0} reduce-scatter(%x), replica_groups=[4,4]<=[2,4,2]T(0,2,1), to_apply=%add', 'reduce-scatter', 32, 4, ('fsdp',)),
        ('%a = u8[6]{0} collective-permute(%x), source_target_pairs={{0,8},{8,0}}', 'collective-permute', 6, 2, ('data',)),
        ('%a = pred[6]{0} all-to-all(%x), replica_groups=[8,2]<=[16]', 'all-to-all', 6, 2, ('tensor',)),
        ("%a = f32[8]{0} all-reduce(%x), replica_groups=mesh['axis_0'=16] {'axis_0':(2)4}, to_apply=%add", 'all-reduce', 32, 16, ()),
    ],
)  # fmt: skip
def test_a_line(line, kind, size, group, axes):
    assert collectives_of(f'ENTRY %main {{\n  {line}\n}}', SHAPE, AXES) == [Collective(kind, size, group, axes)]


def test_other_lines_are_none_and_an_operation_in_two_computations_is_one():
    text = """
  %fusion = f32[8]{0} fusion(%all-reduce.3), kind=kLoop
  %b = f32[8]{0} all-reduce-done(%c)
  %x = f32[8]{0} all-reduce(%p), channel_id=7, replica_groups=[8,2]<=[16]
  %y = f32[8]{0} all-reduce(%q), channel_id=7, replica_groups=[8,2]<=[16]
  %z = f32[8]{0} all-reduce(%q), channel_id=8, replica_groups=[8,2]<=[16]
"""
    assert len(collectives_of(text, SHAPE, AXES)) == 2


@pytest.mark.parametrize(
    ('kind', 'sent'),
    [('all-reduce', 150.0), ('all-gather', 75.0), ('reduce-scatter', 75.0), ('all-to-all', 75.0), ('collective-permute', 100.0)],
)
def test_what_a_ring_sends(kind, sent):
    assert Collective(kind, 100, 4, ('fsdp',)).sent == sent
