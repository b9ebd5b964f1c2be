"""Orbax directories against Orbax itself."""

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.sources import open_checkpoint

TREE = {
    'params': {'dense': {'kernel': np.arange(12, dtype=np.float32).reshape(3, 4), 'bias': np.arange(4).astype(ml_dtypes.bfloat16)}},
    'list': [np.ones(2), {'a': np.arange(3)}],
    'a.b': {'c': np.full(2, 7.0)},
    'step': np.int32(5),
    'note': 'hello',
    'nothing': None,
    'empty': {},
}
EXPECTED = {
    'params/dense/kernel': TREE['params']['dense']['kernel'],
    'params/dense/bias': TREE['params']['dense']['bias'],
    'list/0': np.ones(2),
    'list/1/a': np.arange(3),
    'a.b/c': np.full(2, 7.0),
    'step': np.int32(5),
}


def check(found, expected):
    assert set(found.specs) == set(expected)
    for key, want in expected.items():
        array = found.read(key)
        assert (array.dtype, array.shape) == (want.dtype, want.shape) == (found.specs[key].dtype, found.specs[key].shape), key
        assert np.array_equal(array, want), key


@pytest.mark.parametrize('handler', [{}, {'use_ocdbt': False}, {'use_zarr3': True}])
def test_a_directory_with_any_layout(tmp_path, handler):
    path = tmp_path / 'with a blank and 100%25'
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**handler)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(TREE))
    found = open_checkpoint(str(path))
    assert found.format == 'orbax'
    check(found, EXPECTED)


def test_standard_checkpointer(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / 's', {'w': np.ones(3)})
    check(open_checkpoint(str(tmp_path / 's')), {'w': np.ones(3)})


def test_manager_steps(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        for step in (9, 100):
            manager.save(step, args=ocp.args.StandardSave({'w': np.full(3, step)}))
    found = open_checkpoint(str(tmp_path))
    assert found.format == 'orbax (step 100)'
    check(found, {'w': np.full(3, 100)})
    check(open_checkpoint(str(tmp_path / '9')), {'w': np.full(3, 9)})
    check(open_checkpoint(str(tmp_path / '9' / 'default')), {'w': np.full(3, 9)})
    # A save that was cut off leaves an empty step, or a temporary directory.
    (tmp_path / '200').mkdir()
    (tmp_path / '300.orbax-checkpoint-tmp-1').mkdir()
    assert open_checkpoint(str(tmp_path)).format == 'orbax (step 100)'
    with pytest.raises(CheckpointError, match='holds: nothing'):
        open_checkpoint(str(tmp_path / '200'))


def test_a_root_with_empty_steps_only(tmp_path):
    (tmp_path / '5').mkdir()
    with pytest.raises(CheckpointError, match='without a complete checkpoint'):
        open_checkpoint(str(tmp_path))


def test_several_items_have_their_names_first(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        items = {'params': ocp.args.PyTreeSave({'w': np.ones(3)}), 'state': ocp.args.PyTreeSave({'w': np.zeros(2)})}
        manager.save(7, args=ocp.args.Composite(**items, data=ocp.args.JsonSave({'position': 1})))
    check(open_checkpoint(str(tmp_path / '7')), {'params/w': np.ones(3), 'state/w': np.zeros(2)})


def test_damage_is_one_message(tmp_path):
    path = tmp_path / 'o'
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave({'w': np.arange(5000), 'v': np.ones(2)}))
    found = open_checkpoint(str(path))
    for file in [*path.glob('d/*'), *path.glob('ocdbt.process_0/d/*')]:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="'w' cannot be read"):
        found.read('w')
    whole = (path / '_METADATA').read_text()
    for content in ('', whole[:50], '{}', '[]'):
        (path / '_METADATA').write_text(content)
        with pytest.raises(CheckpointError, match=str(path)):
            open_checkpoint(str(path))
