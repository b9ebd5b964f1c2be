"""BERT for classifying texts as every tutorial has it: the pooler's output, Adam 5e-5 from the first step to the last, 10 epochs.

    jtl train --config=configs/bert_classification.py --config.data.root=FILE --workdir=runs/bert

FILE is a CSV with the columns text and label, or a folder with train.csv (jtl/data/text_csv.py); pairs of texts have a second column
(--config.data.pair_key=NAME). The net and its tokenizer are the checkpoint's: for another BERT, --config.init_from is all that changes.

Not measured here, for want of the weights. Published for BERT-base: 93.5 % on the test set of SST-2, by the schedule of
configs/bert_classification_adamw.py (Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, table 1).
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = ''  # as config.json says
    config.init_from = 'hf://google-bert/bert-base-uncased'
    config.task.dropout = 0.1
    config.data.name = 'text_csv'
    config.data.root = ''
    config.text.max_length = 512
    config.tune.recipe = 'full'
    config.optimizer.update(name='adam', lr=5e-5, schedule='constant')
    config.epochs = 10.0
    config.batch_size = 32
    return config
