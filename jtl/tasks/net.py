"""The net of a model and the tasks on it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl.errors import UserError
from jtl.models.base import Model, with_stages
from jtl.models.net import Attachment, Net, make_net
from jtl.models.precision import with_precision
from jtl.tasks.base import HEAD, Task


def net_of(model: Model, tasks: Mapping[str, Task], size: Any, precision: Sequence[Any] = ()) -> Net:
    """The backbone with the tasks' own stages (pooling) at its end, and the head of each task where it reads.

    Tasks with stages of their own, which must be the same ones, read what these give; tasks without any read the features before them.

    Args:
      model: from its family.
      tasks: by the name of the head; 'main' is among them.
      size: of the inputs, as `Model.inputs` takes it.
      precision: rules, see `jtl.models.precision`.

    Raises:
      UserError: two tasks with different stages, or a rule of precision that is wrong.
    """
    first = next((name for name in (HEAD, *tasks) if tasks[name].stages), HEAD)
    own = tasks[first].stages
    attachments = {}
    for name, task in tasks.items():
        if task.stages and task.stages != own:
            of_first = 'config.task' if first == HEAD else f'config.tasks.{first}'
            raise UserError(f'config.tasks.{name}: its pooling is not that of {of_first}. Give both the same pool.')
        stop = own[0].name if own and not task.stages else None
        attachments[name] = Attachment(stop, task.inputs, task.ties)
    heads = {name: task.head for name, task in tasks.items()}
    backbone, heads, _ = with_precision(with_stages(model.backbone, own), heads, precision)
    return make_net(backbone, heads, model.inputs(size), attachments)
