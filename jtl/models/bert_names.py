"""Where the leaves of BERT, RoBERTa and DistilBERT lie in the files of transformers: safetensors and torch, old and new, and Flax msgpack."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jtl.checkpoint.adapt import NameTable
from jtl.checkpoint.leaf import Function
from jtl.errors import UserError, did_you_mean
from jtl.models.base import Weights
from jtl.rules import as_rules

Rules = list[tuple[str, Any]]


@dataclass(frozen=True)
class Style:
    """How one kind of file writes names and axes: what stands between modules, what leaves are called, how a dense kernel becomes (in, out)."""

    name: str
    separator: str
    kernel: str
    embedding: str
    scale: str
    shift: str
    functions: tuple[Function, ...] = ()


TORCH = Style('', '.', 'weight', 'weight', 'weight', 'bias', (('transpose', 1, 0),))
# Files of BERT from before 2019, such as that of bert-base-uncased, call LayerNorm's leaves as TensorFlow did.
TORCH_OLD = Style(', gamma and beta', '.', 'weight', 'weight', 'gamma', 'beta', TORCH.functions)
FLAX = Style(', Flax', '/', 'kernel', 'embedding', 'scale', 'bias')


@dataclass(frozen=True)
class Layout:
    r"""What one class of models in transformers calls its modules, in torch's way of writing; the Flax classes use the same names.

    Attributes:
      name: for people.
      prefix: of the modules of `body`, not of the head: 'bert.' in a model with a head, '' in a file of the bare model.
      body: path of a module in jtl -> name of the original's, `\1` for the number of the layer.
      head: the same below `heads/<task>`. A linear or MLP head is `hidden_0` and `output`; a masked language model's is `transform`, `norm`
        and `bias`, a leaf of its own, in front of the word table.
      more: a module of the head that only this layout has, to tell it from the next.
      ignore: modules of the head that nobody misses: those that no task of jtl has, and a decoder that is the word table once more.
      styles: kinds of files that there are of it.
    """

    name: str
    prefix: str
    body: Mapping[str, str]
    head: Mapping[str, str]
    more: str = ''
    ignore: tuple[str, ...] = ()
    styles: tuple[Style, ...] = (TORCH, FLAX)


_LAYER = r'layer_(\d+)'
_EMBEDDINGS = {
    'embeddings/word': 'embeddings.word_embeddings',
    'embeddings/position': 'embeddings.position_embeddings',
    'embeddings/segment': 'embeddings.token_type_embeddings',
    'embeddings/norm': 'embeddings.LayerNorm',
}
_BERT = _EMBEDDINGS | {
    f'{_LAYER}/attention/query': r'encoder.layer.\1.attention.self.query',
    f'{_LAYER}/attention/key': r'encoder.layer.\1.attention.self.key',
    f'{_LAYER}/attention/value': r'encoder.layer.\1.attention.self.value',
    f'{_LAYER}/attention/out': r'encoder.layer.\1.attention.output.dense',
    f'{_LAYER}/norm1': r'encoder.layer.\1.attention.output.LayerNorm',
    f'{_LAYER}/mlp/fc1': r'encoder.layer.\1.intermediate.dense',
    f'{_LAYER}/mlp/fc2': r'encoder.layer.\1.output.dense',
    f'{_LAYER}/norm2': r'encoder.layer.\1.output.LayerNorm',
    'pooler/dense': 'pooler.dense',
}
_DISTILBERT = _EMBEDDINGS | {
    f'{_LAYER}/attention/query': r'transformer.layer.\1.attention.q_lin',
    f'{_LAYER}/attention/key': r'transformer.layer.\1.attention.k_lin',
    f'{_LAYER}/attention/value': r'transformer.layer.\1.attention.v_lin',
    f'{_LAYER}/attention/out': r'transformer.layer.\1.attention.out_lin',
    f'{_LAYER}/norm1': r'transformer.layer.\1.sa_layer_norm',
    f'{_LAYER}/mlp/fc1': r'transformer.layer.\1.ffn.lin1',
    f'{_LAYER}/mlp/fc2': r'transformer.layer.\1.ffn.lin2',
    f'{_LAYER}/norm2': r'transformer.layer.\1.output_layer_norm',
}
_BUFFERS = ('embeddings.position_ids', 'embeddings.token_type_ids')

_BERT_HEADS = {
    'output': 'classifier',
    'transform': 'cls.predictions.transform.dense',
    'norm': 'cls.predictions.transform.LayerNorm',
    'bias': 'cls.predictions.bias',
}
_ROBERTA_HEADS = {'output': 'classifier', 'transform': 'lm_head.dense', 'norm': 'lm_head.layer_norm', 'bias': 'lm_head.bias'}
_DISTILBERT_HEADS = {
    'hidden_0': 'pre_classifier',
    'output': 'classifier',
    'transform': 'vocab_transform',
    'norm': 'vocab_layer_norm',
    'bias': 'vocab_projector.bias',
}
# RoBERTa classifies sentences by a tanh layer of the head's own, tokens by one dense layer; both are called `classifier`.
_ROBERTA_SENTENCES = {'hidden_0': 'classifier.dense', 'output': 'classifier.out_proj'}
_BERT_REST = ('cls.predictions.decoder', 'cls.seq_relationship', 'qa_outputs')
_ROBERTA_REST = ('lm_head.decoder', 'qa_outputs')
_DISTILBERT_REST = ('vocab_projector.weight', 'vocab_projector.kernel', 'qa_outputs')

SOURCES: dict[str, tuple[Layout, ...]] = {
    'bert': (
        Layout('transformers BERT', 'bert.', _BERT, _BERT_HEADS, ignore=_BERT_REST, styles=(TORCH, TORCH_OLD, FLAX)),
        Layout('transformers BERT without head', '', _BERT, {}, styles=(TORCH, TORCH_OLD, FLAX)),
    ),
    'roberta': (
        Layout('transformers RoBERTa for sentences', 'roberta.', _BERT, _ROBERTA_SENTENCES, more='classifier.out_proj'),
        Layout('transformers RoBERTa', 'roberta.', _BERT, _ROBERTA_HEADS, ignore=_ROBERTA_REST),
        Layout('transformers RoBERTa without head', '', _BERT, {}),
    ),
    'distilbert': (
        Layout('transformers DistilBERT', 'distilbert.', _DISTILBERT, _DISTILBERT_HEADS, ignore=_DISTILBERT_REST),
        Layout('transformers DistilBERT without head', '', _DISTILBERT, {}),
    ),
}
# Of the published weights; those that have BERT's names have many licences.
LICENCES = {'bert': '', 'roberta': 'MIT', 'distilbert': 'Apache-2.0'}


def known_weights(source: str, *, pooler: bool) -> tuple[Weights, ...]:
    """The checkpoints that a model of this family can load.

    Args:
      source: one of SOURCES.
      pooler: whether the model has a pooler. If not, that of a checkpoint is ignored; if so, the checkpoint must have one too.

    Raises:
      UserError: an unknown source.
    """
    if source not in SOURCES:
        raise UserError(f'model.source: there is no {source!r}. {did_you_mean(source, SOURCES)}'.rstrip())
    return tuple(Weights(_table(layout, style, pooler), None, LICENCES[source]) for layout in SOURCES[source] for style in layout.styles)


def _table(layout: Layout, style: Style, pooler: bool) -> NameTable:
    body = {path: layout.prefix + name for path, name in layout.body.items() if pooler or not path.startswith('pooler/')}
    ignored = [*layout.ignore, *(layout.prefix + name for name in (*_BUFFERS, *(() if pooler else ('pooler',))))]
    rules = [rule for path, name in body.items() for rule in _module(f'backbone/{path}', name, style)]
    head = [rule for path, name in layout.head.items() for rule in _module(f'heads/[^/]+/{path}', name, style)]
    detect = [
        (body['embeddings/word'], style.embedding),
        (body['embeddings/norm'], style.scale),
        (body[f'{_LAYER}/attention/query'].replace(r'\1', '0'), style.kernel),
        *([(layout.more, style.kernel)] if layout.more else []),
    ]
    return NameTable(
        name=layout.name + style.name,
        detect=tuple(_key(name, leaf, style) for name, leaf in detect),
        rules=as_rules(rules, optional=True, origin=layout.name),
        head=as_rules(head, optional=True, origin=layout.name),
        ignore=tuple(re.escape(_key(name, '', style)) + f'({re.escape(style.separator)}.+)?' for name in ignored),
    )


def _module(path: str, name: str, style: Style) -> Rules:
    """The rules of one module's leaves. What kind of module it is, the last part of its path tells."""
    kind = path.rpartition('/')[2]
    if kind in ('word', 'position', 'segment'):
        return [(f'{path}/embedding', _key(name, style.embedding, style))]
    if kind.startswith('norm'):
        return [(f'{path}/scale', _key(name, style.scale, style)), (f'{path}/bias', _key(name, style.shift, style))]
    if kind == 'bias':
        return [(path, _key(name, '', style))]
    return [(f'{path}/kernel', (_key(name, style.kernel, style), *style.functions)), (f'{path}/bias', _key(name, 'bias', style))]


def _key(name: str, leaf: str, style: Style) -> str:
    return '.'.join(filter(None, (name, leaf))).replace('.', style.separator)
