"""The plain start with text: a small LSTM from scratch, over the words of the training texts.

Word vectors of 50, two layers of 50, the last state, softmax; cross-entropy, SGD 0.01, 10 epochs.

    jtl train --config=configs/lstm_scratch.py --config.data.root=DIR --workdir=runs/lstm_scratch

DIR holds a file of texts for each class, a text a line (jtl/data/text_files.py).

Measured on sentence_polarity (10,662 sentences of film reviews, Pang and Lee 2005), test accuracy on 2132 sentences, one seed, 64 seconds on 2
CPU cores shared with other work: 50.0 %, that is nothing: plain SGD with so small a rate has not begun to learn after 2400 steps (word vectors
that start larger, as PyTorch's do, had come to 54.3 %). Adam does: 74.2 % in 17 seconds with
--config.optimizer.name=adam --config.optimizer.lr=1e-3 --config.epochs=3.0 --config.eval_every=100 --config.select=best
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=50, hidden=50, layers=2)
    config.data.name = 'text_files'
    config.data.root = ''
    config.text.tokenizer = 'words'
    config.tune.recipe = 'scratch'
    config.optimizer.update(name='sgd', lr=0.01, momentum=0.9, schedule='constant')
    config.epochs = 10.0
    config.batch_size = 32
    return config
