"""Where the leaves of a recurrent net lie in the state dicts of PyTorch models around `nn.Embedding` and `nn.LSTM` or `nn.GRU`."""

from typing import Any

from jtl.checkpoint.adapt import NameTable
from jtl.models.base import WORDS, Weights
from jtl.rules import as_rules

_SWAP = ('transpose', 1, 0)
# How people call the embedding in their module, and the dense layer that goes with it.
_EMBEDDINGS = {'embedding': 'fc', 'embeddings': 'fc', 'embed': 'fc', 'encoder': 'decoder'}


def known_weights(kind: str, layers: int, bidirectional: bool) -> tuple[Weights, ...]:
    """The layouts that a net of this kind and depth reads.

    `nn.LSTM` or `nn.GRU` as `lstm`, `gru` or `rnn` beside an `nn.Embedding` as `embedding`, `embeddings`, `embed` or `encoder` (PyTorch's
    word language model), with the head `fc` or `decoder`; else by itself, below any prefix, in which case the words start new.
    """
    pairs = [(embedding, rnn) for rnn in (kind, 'rnn') for embedding in _EMBEDDINGS]
    tables = [_table(f'torch {embedding} and {rnn}', layers, bidirectional, f'{rnn}.', embedding) for embedding, rnn in pairs]
    return tuple(Weights(table, None) for table in (*tables, _table(f'torch nn.{kind.upper()}', layers, bidirectional)))


def _table(name: str, layers: int, bidirectional: bool, rnn: str = '', embedding: str = '') -> NameTable:
    rules: list[tuple[str, Any]] = [(WORDS, f'{embedding}.weight' if embedding else None)]
    for way, end in {'forward': '', 'backward': '_reverse'}.items():
        for ours, theirs in {'input': 'ih', 'hidden': 'hh'}.items():
            path = rf'backbone/layer_(\d+)/{way}/{ours}'
            rules.append((f'{path}/kernel', (rf'{rnn}weight_{theirs}_l\1{end}', _SWAP)))
            rules.append((f'{path}/bias', rf'{rnn}bias_{theirs}_l\1{end}'))
    head = _EMBEDDINGS.get(embedding)
    heads: list[tuple[str, Any]] = []
    if head:
        heads = [(r'heads/[^/]+/output/kernel', (f'{head}.weight', _SWAP)), (r'heads/[^/]+/(?:output/)?bias', f'{head}.bias')]
    detect = [f'{embedding}.weight'] if embedding else []
    detect += [f'{rnn}weight_hh_l0', *([f'{rnn}weight_hh_l{layers - 1}_reverse'] if bidirectional else [])]
    return NameTable(
        name=name,
        detect=tuple(detect),
        rules=as_rules(rules, optional=True, origin=name),
        head=as_rules(heads, optional=True, origin=name),
    )
