"""Generated texts of ragged lengths, and configs of tiny nets that read them, for the tests of runs."""

import numpy as np
from safetensors.numpy import save_file

import jtl
from jtl.data.tokenizer import word_tokenizer

WORDS = ('film', 'good', 'bad', 'Paris', 'Ada', 'the', 'a', 'is', 'in', 'and')
TAGS = {'Paris': 'B-place', 'Ada': 'B-person'}
BUCKETS = (4, 8, 12)
SIZES = {'train': 44, 'validation': 13, 'test': 11}


def sentences(count, seed, longest=10):
    """Of 1 to `longest` words; with two special tokens they fall into all of BUCKETS."""
    random = np.random.default_rng(seed)
    return [tuple(random.choice(WORDS, random.integers(1, longest + 1)).tolist()) for _ in range(count)]


def table(path, change=lambda split, k, text: text):
    """A CSV with a column 'split'; a text is positive where 'good' is in it. `change` is done to each text."""
    rows = ['text,label,split']
    for seed, (split, count) in enumerate(SIZES.items()):
        for k, words in enumerate(sentences(count, seed)):
            rows.append(f'{change(split, k, " ".join(words))},{"pos" if "good" in words else "neg"},{split}')
    path.write_text('\n'.join(rows))
    return path


def columns(folder):
    """CoNLL files of the same sentences."""
    folder.mkdir()
    for seed, (split, count) in enumerate(SIZES.items()):
        written = ['\n'.join(f'{word} {TAGS.get(word, "O")}' for word in words) for words in sentences(count, seed)]
        (folder / f'{split}.conll').write_text('\n\n'.join(written))
    return folder


def config(data, root, model=(), buckets=(12,), **fields):
    """An LSTM of four units, whose vocabulary is that of the training texts. (For each bucket a step is compiled anew.)"""
    made = jtl.default_config()
    made.data.update(name=data, root=str(root))
    with made.unlocked():
        made.model.update({'name': 'lstm', 'embedding': 4, 'hidden': 4, **dict(model)})
    made.text.buckets = buckets
    made.optimizer.update(name='sgd', lr=0.5, schedule='constant')
    made.batch_size, made.steps, made.log_every = 8, 8, 2
    for name, value in fields.items():
        with made.unlocked():
            if isinstance(value, dict) and name in made:
                made[name].update(value)
            else:
                made[name] = value
    return made


def checkpoint(folder):
    """Random parameters of that LSTM under jtl's own paths, with the tokenizer of its word table beside them, which has three words more."""
    folder.mkdir()
    random, gates = np.random.default_rng(0), 16
    (folder / 'tokenizer.json').write_text(word_tokenizer([(*WORDS, 'x', 'y', 'z')]))
    leaves = {'embeddings/word/embedding': (4 + len(WORDS) + 3, 4)}
    for name in ('input', 'hidden'):
        leaves |= {f'layer_0/forward/{name}/kernel': (4, gates), f'layer_0/forward/{name}/bias': (gates,)}
    save_file(
        {f'backbone/{path}': random.normal(0, 0.5, shape).astype(np.float32) for path, shape in leaves.items()},
        folder / 'model.safetensors',
    )
    return folder
