"""ULMFiT (Howard and Ruder 2018): an LSTM learns its language before its task, of which few examples have labels.

    jtl train --config=configs/ulmfit.py --config.data.root=DIR --workdir=runs/ulmfit
    jtl train --config=configs/ulmfit.py:FILE --config.data.root=DIR --workdir=runs/ulmfit

DIR holds neg.txt and pos.txt, a sentence a line (jtl/data/text_files.py). 100 sentences of each have their labels; the language model reads all
of the training sentences. FILE is general text, a line an example, or a folder with train.txt (jtl/data/text_lines.py): with it a language
model of general text comes first. The same net without a language model, in as many steps as the task has:

    --config.tune.recipe=scratch --config.steps=600

Otherwise than there: the head is linear (a hidden layer of ReLUs at the rates of the paper died here, which its batch normalisation
prevents); the net is smaller; a text is read from its own start, not as a stretch of the whole corpus; one direction and one net,
no ensemble.

Measured on sentence_polarity (10,662 sentences of film reviews, Pang and Lee 2005), test accuracy on 2132 sentences, 200 labels, one seed, on
one CPU core: 58.3 % in 11 minutes, and without a language model 59.8 % in 2 minutes, so nothing is gained. Its language model had the 7678
sentences of training alone (perplexity 109 on validation), without general text, which is where Howard and Ruder's gain comes from: they
report that 100 labelled examples with it match training from scratch on 100 times as many.
"""

from jtl import default_config


def get_config(general=''):
    config = default_config()
    config.model.name = 'lstm'
    config.model.update(embedding=128, hidden=128, layers=3, dropout=0.3, embedding_dropout=0.1, recurrent_dropout=0.3)
    config.task.update(pool='concat', dropout=0.1)
    config.tasks.lm = {'name': 'causal_lm', 'dropout': 0.3}
    config.data.name = 'text_files'
    config.data.root = ''
    config.data.shots = 100
    config.sources.target = {'shots': 0}
    if general:
        config.sources.general = {'name': 'text_lines', 'root': general, 'shots': 0}
    config.text.tokenizer = 'words'
    config.text.update(max_length=128, min_count=3)
    config.tune.recipe = 'ulmfit'
    if general:
        config.tune.ulmfit.update(general_fraction=0.5, general_lr=1e-2, target_fraction=0.25, target_lr=4e-3, target_decay=1 / 2.6)
    else:
        config.tune.ulmfit.update(general_fraction=0.0, target_fraction=0.75, target_lr=1e-2, target_decay=1.0)
    config.tune.ulmfit.update(chunks=4, lr=1e-2 / 2.6, head_lr=1e-2, decay=1 / 2.6, last_fraction=0.5)
    config.optimizer.update(name='adam', lr=4e-3, b1=0.7, b2=0.99, schedule='linear', warmup=0.1, final=1 / 32, clip=0.25)
    config.steps = 2400
    config.batch_size = 32
    config.eval_every = 50
    config.select = 'best'
    return config
