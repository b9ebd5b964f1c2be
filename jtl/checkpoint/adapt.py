"""From a checkpoint's keys to jtl's paths: loading rules, and what they do to every leaf."""

from dataclasses import dataclass

from jtl.rules import Rule


@dataclass(frozen=True)
class NameTable:
    r"""How one layout of checkpoints maps to a family's paths.

    Attributes:
      name: for people, such as 'efficientnet-lite-pytorch'.
      detect: source keys that a checkpoint of this layout has (exact names); all must be there.
      rules: patterns on jtl's own paths (parameters and statistics, `backbone/...`); the value is the source-key template
        with back-references, alone or followed by leaf functions: `(r'_blocks.\1.conv.weight', ('transpose', 2, 3, 1, 0))`;
        None starts the leaf new.
      head: the same for `heads/<task>/...`, used only where the config keeps the checkpoint's head.
      ignore: patterns of source keys that nobody misses (counters, the old head when it is not kept).
    """

    name: str
    detect: tuple[str, ...]
    rules: tuple[Rule, ...]
    head: tuple[Rule, ...] = ()
    ignore: tuple[str, ...] = ()
