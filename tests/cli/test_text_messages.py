"""What a user of text may get wrong, as they meet it: one message on stderr, exit status 2, and nothing written."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from jtl.cli.main import main
from jtl.data.tokenizer import word_tokenizer
from jtl.models.base import WORDS

CONFIG = """
from jtl import default_config


def get_config():
    config = default_config()
    config.data.update(name='text_csv', root={root!r})
    config.steps, config.batch_size = 2, 4
    with config.unlocked():
        config.model = {{'name': 'lstm', 'embedding': 4, 'hidden': 4}}
        {more}
    return config
"""
TEXTS = [('good film ' if k % 2 else 'bad film ') * (1 + k // 2) for k in range(20)]
IDS = 4 + 3  # special tokens and words
TOKENIZER = word_tokenizer(TEXTS)
PHASE = {'steps': 1, 'train': (('.*', 'all'),)}
LM = {'lm': {'name': 'causal_lm'}}


def lstm(folder, rows, tokenizer=TOKENIZER):
    """An LSTM whose word table has so many rows."""
    folder.mkdir()
    leaves = {WORDS: (rows, 4)}
    for name in ('input', 'hidden'):
        leaves |= {f'backbone/layer_0/forward/{name}/kernel': (4, 16), f'backbone/layer_0/forward/{name}/bias': (16,)}
    save_file({path: np.zeros(shape, np.float32) for path, shape in leaves.items()}, folder / 'model.safetensors')
    if tokenizer:
        (folder / 'tokenizer.json').write_text(tokenizer)


def transformers_bert(folder, rows):
    """A BERT as transformers writes it, with a config.json that is believed; the weights are not looked at, but for their names."""
    folder.mkdir()
    keys = [f'embeddings.{name}.weight' for name in ('word_embeddings', 'position_embeddings', 'token_type_embeddings', 'LayerNorm')]
    save_file(
        {key: np.zeros((rows, 8), np.float32) for key in [*keys, 'encoder.layer.0.attention.self.query.weight']},
        folder / 'model.safetensors',
    )
    sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 16, 'max_position_embeddings': 16}
    (folder / 'config.json').write_text(json.dumps({'model_type': 'bert', 'vocab_size': rows, **sizes}))
    (folder / 'vocab.txt').write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', *'abcdefgh']))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('messages')
    (root / 'texts.csv').write_text('\n'.join(['text,label', *(f'{text},{text.split()[0]}' for text in TEXTS)]))
    (root / 'latin.csv').write_bytes('text,label\ngood,a\ncafé,b\n'.encode('latin-1'))
    (root / 'utf16.csv').write_bytes('text,label\ngood,a\n'.encode('utf-16'))
    (root / 'ragged.csv').write_text('text,label\ngood,a\nbad, and more,b\n')
    (root / 'thirds.csv').write_text('\n'.join(['text,label', *(f'{text},{"xyz"[k % 3]}' for k, text in enumerate(TEXTS))]))
    (root / 'untagged.conll').write_text('EU B-ORG\nrejects\n')
    (root / 'tagged.conll').write_text('\n\n'.join('good B-x\nfilm O' for _ in TEXTS))
    (root / 'lines.txt').write_text('\n'.join(TEXTS))
    (root / 'glove.txt').write_text('\n'.join(f'{word} 0.1 0.2 0.3' for word in ('good', 'bad', 'film')))
    np.savez(root / 'pictures.npz', train_images=np.zeros((20, 8, 8, 1), np.uint8), train_labels=np.arange(20) % 2)
    lstm(root / 'small', IDS - 2)
    lstm(root / 'other', IDS, word_tokenizer(['good film', 'worse']))
    lstm(root / 'bare', IDS, tokenizer='')
    transformers_bert(root / 'bert', 11)
    transformers_bert(root / 'fitting', 12)
    return root


CASES = {
    'an encoding': ((), ['data.root=ROOT/latin.csv'], r"data\.root: ROOT/latin\.csv, line 3: no UTF-8 \(byte 0xe9\)\. .* data\.encoding='latin-1'"),
    'UTF-16': ((), ['data.root=ROOT/utf16.csv'], r"line 1: no UTF-8 \(byte 0xff\)\. It begins as UTF-16 does: set data\.encoding='utf-16'"),
    'no encoding': ((), ['data.encoding=utf-99'], r"data\.encoding: there is no encoding 'utf-99'\."),
    'a ragged row': ((), ['data.root=ROOT/ragged.csv'], r'ROOT/ragged\.csv, line 3: 3 fields, but the first line names 2 \(text, label\)\.'),
    'a column': ((), ['data.text_key=txt'], r"data\.text_key: ROOT/texts\.csv, line 1 has no column 'txt'\. Did you mean 'text'\?"),
    'a tag': (
        (),
        ['data.name=conll', 'data.root=ROOT/untagged.conll', 'task.name=token_classification'],
        r'ROOT/untagged\.conll, line 2: 1 column \(rejects\), but line 1 has 2 columns \(EU \| B-ORG\)\. Every token needs its tag',
    ),
    # Tokenizers, and the tables of words that they go with.
    'more ids than rows': (
        (), ['init_from=ROOT/small'], rf'text\.tokenizer: it has {IDS} ids, but the word table of ROOT/small has {IDS - 2} rows\.'
    ),
    'more ids than config.json says': (
        ("config.model = {'name': ''}",),
        ['init_from=ROOT/bert'],
        r'text\.tokenizer: it has 12 ids, but the word table of ROOT/bert has 11 rows\. They do not belong together',
    ),
    'more ids than the model says': ((), ['model.vocab_size=6'], rf'it has {IDS} ids, but the word table of model lstm has 6 rows\.'),
    'other words': (
        (), ['init_from=ROOT/other', 'text.tokenizer=words'], rf"text\.tokenizer='words': the {IDS} rows of .*ROOT/other do not stand for the {IDS} words"
    ),
    'no tokenizer': ((), ['init_from=ROOT/bare'], r'no tokenizer\.json or vocab\.txt lies beside ROOT/bare\. Name the place of one'),
    'a tokenizer that is not there': ((), ['text.tokenizer=ROOT/other/tokenizr.json'], r"no such file or folder\. Did you mean 'tokenizer\.json'\?"),
    'positions': (
        ("config.model = {'name': ''}",),
        ['init_from=ROOT/fitting', 'text.max_length=17'],
        r'text\.max_length=17: the model has 16 positions and can read no longer text\. Set text\.max_length=16 or less\.',
    ),
    'a bucket beyond the positions': (
        ("config.model = {'name': ''}",), ['init_from=ROOT/fitting', 'text.buckets=(8, 32)'], r'the model has 16 positions'
    ),
    'buckets': ((), ['text.buckets=("a",)'], r"text\.buckets: whole numbers, found \('a',\)\."),
    'buckets that fall': ((), ['text.buckets=(8, 4)'], r'text\.buckets must be lengths above 0 in rising order'),
    'no room': ((), ['text.max_length=2'], r'text\.max_length=2 leaves no room for text: the tokenizer adds 2 special tokens\.'),
    'a field of text': ((), ['text.tokenizr=words'], r"config\.text has no field 'tokenizr'\. Did you mean 'tokenizer'\?"),
    'a field of text in the file': (("config.text.max_lenght = 3",), [], r"config\.text\.max_lenght: there is no such field\. Did you mean 'max_length'\?"),
    'no mask token': ((), ['task.name=masked_lm'], r'masked_lm hides words behind a mask token, but the tokenizer has none\.'),
    'another width of vectors': (
        ("config.init_from = {'backbone/embeddings/word': 'ROOT/glove.txt'}",),
        [],
        r'word vectors of ROOT/glove\.txt have 3 numbers each, the word table of lstm has 4\. Set model\.embedding=3',
    ),
    'vectors as a checkpoint': ((), ['init_from=ROOT/glove.txt'], r"holds word vectors, which are the word table alone\. Name it there: \{'backbone/embeddings/word'"),
    # Texts for what reads pictures, and the other way round.
    'texts for a convnet': (("config.model = {'name': 'convnet'}",), [], r'model\.name: convnet reads no text, which the data are\. Choose a text model'),
    'pictures for an LSTM': (
        (), ['data.name=arrays', 'data.root=ROOT/pictures.npz'], r'model\.name: lstm reads text, which the data are not\. See data\.name'
    ),
    'masked pictures': (
        ("config.model = {'name': 'convnet'}",),
        ['data.name=arrays', 'data.root=ROOT/pictures.npz', 'task.name=masked_lm'],
        r'task\.name: masked_lm predicts words, but the data or the model are not of text\.',
    ),
    'image size': ((), ['model.image_size=32'], r'model\.image_size: lstm reads no pictures\. Leave it 0\.'),
    'a crop': ((), ['augment.crop=0.8'], r'config\.augment\.crop: pictures are augmented, the model reads ids, mask\.'),
    'a zoom': ((), ['augment.zoom=0.2'], r'config\.augment\.zoom: pictures are augmented'),
    'mixup': ((), ['augment.mixup=0.2'], r'config\.augment\.mixup, cutmix: pictures are mixed, the model reads ids, mask\.'),
    'views': ((), ['tta=("flip",)'], r'config\.tta: views are taken of pictures, the model reads ids, mask\.'),
    'preprocessing': ((), ['preprocessing.crop=0.5'], r'config\.preprocessing is about pictures, the data are texts; see config\.text\.'),
    # Several tasks and data.
    'no such task': (
        (f'config.tasks = {LM}', f"config.phases = ({ {**PHASE, 'task': 'ml'} }, {PHASE})"),
        ['tune.recipe='],
        r"phase 'phase_0': there is no task 'ml'\. Describe it in config\.tasks\.ml, .* Did you mean 'lm'\?",
    ),
    'no such data': (
        (f'config.tasks = {LM}', "config.sources = {'corpus': {}}", f"config.phases = ({ {**PHASE, 'task': 'lm', 'data': 'corpos'} }, {PHASE})"),
        ['tune.recipe='],
        r"phase 'phase_0': there are no data 'corpos'\. Describe them in config\.sources\.corpos, .* Did you mean 'corpus'\?",
    ),
    'a task that is no name': ((f"config.phases = ({ {**PHASE, 'task': {'a': 1}} },)",), ['tune.recipe='], r'config\.phases\[0\]\.task: a name, found '),
    'data that are no name': ((f"config.phases = ({ {**PHASE, 'data': None} },)",), ['tune.recipe='], r'config\.phases\[0\]\.data: a name, found None'),
    'another task last': (
        (f'config.tasks = {LM}', f"config.phases = ({PHASE}, { {**PHASE, 'task': 'lm'} })"),
        ['tune.recipe='],
        r"phase 'phase_1': the last phase trains the task of config\.task, not 'lm'\.",
    ),
    'other classes': (
        ("config.sources = {'more': {'root': 'ROOT/thirds.csv'}}", f"config.phases = ({ {**PHASE, 'data': 'more'} }, {PHASE})"),
        ['tune.recipe='],
        r"phase 'phase_0', on config\.sources\.more: .* of the task 'main': labels x, y, z, but bad, good in the task's own data\.",
    ),
    "other classes than a further task's": (
        (
            "config.sources = {'more': {'root': 'ROOT/thirds.csv'}}",
            "config.tasks = {'aux': {'name': 'classification', 'data': 'more'}}",
            f"config.phases = ({ {**PHASE, 'task': 'aux'} }, {PHASE})",
        ),
        ['tune.recipe='],
        r"phase 'phase_0', on config\.data: the targets are not those of the task 'aux': labels bad, good, but x, y, z in the task's own",
    ),
    'targets of another shape': (
        ("config.sources = {'more': {'name': 'conll', 'root': 'ROOT/tagged.conll'}}", f"config.phases = ({ {**PHASE, 'data': 'more'} }, {PHASE})"),
        ['tune.recipe='],
        r"phase 'phase_0', on config\.sources\.more: task\.name: classification reads one class number for each example, .* shape \(2,\)",
    ),
    'no such kind of task': (("config.tasks = {'lm': {'name': 'causl_lm'}}",), [], r"config\.tasks\.lm: task\.name: there is no task 'causl_lm'\. Did you mean"),
    'an option of a further task': (("config.tasks = {'lm': {'name': 'causal_lm', 'droput': 0.1}}",), [], r"config\.tasks\.lm: task\.droput: .* Did you mean 'dropout'\?"),
    "a further task's data": (("config.tasks = {'lm': {'name': 'causal_lm', 'data': 'x'}}",), [], r"config\.tasks\.lm\.data: there are no such data in config\.sources: 'x'\.\n"),
    "the task's data": (("config.sources = {'more': {}}", "config.task.data = 'more'"), [], r"task\.data: the task 'classification' has no option 'data'"),
    'a task called main': (("config.tasks = {'main': {'name': 'causal_lm'}}",), [], r"config\.tasks\.main: a name other than 'main'"),
    'another pooling': (("config.tasks = {'aux': {'name': 'classification', 'pool': 'max'}}",), [], r'config\.tasks\.aux: its pooling is not that of config\.task\.'),
    'a field of a source': (("config.sources = {'more': {'nmae': 'text_lines'}}",), [], r"config\.sources\.more: data\.nmae: there is no such field\. Did you mean 'name'\?"),
    'a source that is not there': (
        ("config.sources = {'more': {'name': 'text_lines', 'root': 'ROOT/none.txt'}}",), [], r'config\.sources\.more: data\.root: there is no file or folder'
    ),
    'a source of pictures': (
        ("config.sources = {'more': {'name': 'arrays', 'root': 'ROOT/pictures.npz'}}",), [], r'config\.sources\.more: data: the model reads text, but the examples hold image\.'
    ),
    'a source that is no section': (("config.sources = {'more': 'ROOT/lines.txt'}",), [], r'config\.sources\.more: a name, and the fields in which'),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_one_message(name, root, tmp_path, capsys):
    lines, overrides, message = CASES[name]
    more = '\n        '.join(line.replace('ROOT', str(root)) for line in lines) or 'pass'
    (tmp_path / 'config.py').write_text(CONFIG.format(root=str(root / 'texts.csv'), more=more))
    fields = [f'--config.{override.replace("ROOT", str(root))}' for override in overrides]
    code = main(['train', f'--config={tmp_path / "config.py"}', *fields, f'--workdir={tmp_path / "run"}'])
    said = capsys.readouterr()
    assert code == 2 and said.out == '' and said.err.startswith('jtl train: ')
    assert 'Traceback' not in said.err and not (tmp_path / 'run').exists()
    assert re.search(message.replace('ROOT', re.escape(str(root))), said.err), said.err
