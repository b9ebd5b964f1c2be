"""Generated texts of the schema that each config of text reads, and tiny checkpoints of the layouts that they start from."""

import json

import numpy as np
from safetensors.numpy import save_file

SMALL = {
    'banking77.py': (),
    'bert_classification.py': (),
    'bert_classification_adamw.py': (),
    'bert_reinit.py': (),
    'glove_sentiment.py': ('model.hidden=8',),
    'lstm_scratch.py': ('model.embedding=8', 'model.hidden=8'),
    'minilm_sentiment.py': (),
    'ner_conll.py': (),
    'ulmfit.py': ('model.embedding=8', 'model.hidden=8', 'model.layers=1'),
}
"""By config, the overrides that make its net tiny; those that start from a BERT have that of `bert` below."""

ARGUMENTS = {'bert_reinit.py': '0', 'ulmfit.py': 'general.txt'}
"""Of configs whose own argument does not suit what is generated here."""

WORDS = ('dull', 'bright', 'film', 'the', 'a', 'is', 'was', 'plot', 'in', 'paris', 'obama')
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
LAYERS, WIDTH = 1, 8


def texts(count, seed=0):
    """Sentences of 5 to 8 words, so that all fall into the first bucket; the first word tells the class, which is its place in WORDS."""
    random = np.random.default_rng(seed)
    return [' '.join([WORDS[k % 2], *random.choice(WORDS[2:], random.integers(4, 8))]) for k in range(count)]


def table(path, label_key):
    rows = [f'{text},class_{k % 2}' for k, text in enumerate(texts(60))]
    path.write_text('\n'.join([f'text,{label_key}', *rows]))
    return path


def class_files(root):
    root.mkdir()
    sentences = texts(60)
    for k, label in enumerate(('neg', 'pos')):
        (root / f'{label}.txt').write_text('\n'.join(sentences[k::2]))
    return root


def columns(root):
    """CoNLL files in which Obama is a person and Paris a place."""
    root.mkdir()
    tags = {'obama': 'B-person', 'paris': 'B-location'}
    for seed, split in enumerate(('train', 'validation', 'test')):
        sentences = ['\n'.join(f'{word}\t{tags.get(word, "O")}' for word in text.split()) for text in texts(24, seed)]
        (root / f'{split}.conll').write_text('\n\n'.join(sentences) + '\n')
    return root


def lines(path):
    path.write_text('\n'.join(texts(60, 3)))
    return path


def vectors(path, dim=50):
    """GloVe's text format, without the last word."""
    random = np.random.default_rng(0)
    path.write_text(''.join(f'{word} {" ".join(f"{x:.4f}" for x in random.normal(size=dim))}\n' for word in WORDS[:-1]))
    return path


def bert(root, prefix):
    """A checkpoint of transformers: model.safetensors, config.json and vocab.txt; with the prefix 'bert.' also what was pretrained above."""
    root.mkdir()
    random = np.random.default_rng(0)
    words = (*SPECIAL, *WORDS)
    arrays = {}

    def module(name, *shape):
        arrays[f'{name}.weight'] = (random.normal(0, 0.02, shape) + name.endswith('LayerNorm')).astype(np.float32)
        arrays[f'{name}.bias'] = np.zeros(shape[0], np.float32)

    for name, rows in (('word', len(words)), ('position', 512), ('token_type', 2)):
        arrays[f'{prefix}embeddings.{name}_embeddings.weight'] = random.normal(0, 0.02, (rows, WIDTH)).astype(np.float32)
    module(f'{prefix}embeddings.LayerNorm', WIDTH)
    for k in range(LAYERS):
        layer = f'{prefix}encoder.layer.{k}'
        for name in ('self.query', 'self.key', 'self.value', 'output.dense'):
            module(f'{layer}.attention.{name}', WIDTH, WIDTH)
        module(f'{layer}.intermediate.dense', 2 * WIDTH, WIDTH)
        module(f'{layer}.output.dense', WIDTH, 2 * WIDTH)
        module(f'{layer}.attention.output.LayerNorm', WIDTH)
        module(f'{layer}.output.LayerNorm', WIDTH)
    module(f'{prefix}pooler.dense', WIDTH, WIDTH)
    if prefix:
        module('cls.predictions.transform.dense', WIDTH, WIDTH)
        module('cls.predictions.transform.LayerNorm', WIDTH)
        arrays['cls.predictions.bias'] = np.zeros(len(words), np.float32)
        module('cls.seq_relationship', 2, WIDTH)
    save_file(arrays, root / 'model.safetensors', {'format': 'pt'})
    sizes = {'hidden_size': WIDTH, 'num_hidden_layers': LAYERS, 'num_attention_heads': 2, 'intermediate_size': 2 * WIDTH}
    dropout = {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}  # that would be most of what is compiled
    (root / 'config.json').write_text(json.dumps({'model_type': 'bert', 'vocab_size': len(words), **sizes, **dropout}))
    (root / 'vocab.txt').write_text(''.join(f'{word}\n' for word in words))
    return root


def point(config, root):
    """Let a config read generated texts and checkpoints below `root`, made where they are not there yet."""

    def made(make, name, *args):
        return str(root / name if (root / name).exists() else make(root / name, *args))

    places = {'text_csv': (table, f'{config.data.label_key or "label"}.csv', config.data.label_key or 'label')}
    places |= {'text_files': (class_files, 'files'), 'conll': (columns, 'columns')}
    config.data.root = made(*places[config.data.name])
    if 'general' in config.sources:
        config.sources.general.root = made(lines, config.sources.general.root)
    if config.init_from and not isinstance(config.init_from, str):
        config.init_from = {subtree: made(vectors, 'glove.txt') for subtree in config.init_from}
    elif config.init_from:
        prefix = 'bert.' if config.init_from.startswith('hf://') else ''
        config.init_from, config.model.name = made(bert, f'{prefix}checkpoint', prefix), ''
    return config
