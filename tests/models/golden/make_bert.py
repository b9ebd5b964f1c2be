"""Writes bert_transformers_<family>.npz: what BERTs of transformers give for weights made by a rule, so that tests need no torch.

python tests/models/golden/make_bert.py        # with the extra `parity`
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[2]
WIDTHS = {'vocab_size': 20, 'max_position_embeddings': 7, 'num_labels': 3}
BERT = {'hidden_size': 8, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 12}
DISTILBERT = {'dim': 8, 'n_layers': 2, 'n_heads': 2, 'hidden_dim': 12}


def main() -> None:
    """One class of models for each family."""
    import golden_case
    import reference  # noqa: F401, before transformers
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    families = {
        'bert': (transformers.BertForPreTraining, transformers.BertConfig(**WIDTHS, **BERT)),
        'roberta': (
            transformers.RobertaForSequenceClassification,
            transformers.RobertaConfig(**{**WIDTHS, **BERT, 'max_position_embeddings': 9}, type_vocab_size=1, layer_norm_eps=1e-5),
        ),
        'distilbert': (transformers.DistilBertForSequenceClassification, transformers.DistilBertConfig(**WIDTHS, **DISTILBERT)),
    }
    for family, (kind, config) in families.items():
        with tempfile.TemporaryDirectory() as directory:  # the names in the file need not be those in memory
            kind(config).save_pretrained(directory)
            file = Path(directory) / 'model.safetensors'
            shapes = {key: tuple(x.shape) for key, x in load_file(file).items()}
            save_file({key: torch.tensor(golden_case.weight(key, shape)) for key, shape in shapes.items()}, file, {'format': 'pt'})
            model = kind.from_pretrained(directory).eval()
        batch = {name: torch.tensor(x).long() for name, x in golden_case.sentences(20, 6, config.pad_token_id).items()}
        names = {'ids': 'input_ids', 'mask': 'attention_mask'} | ({'segments': 'token_type_ids'} if family == 'bert' else {})
        with torch.no_grad():
            out = model(**{theirs: batch[ours] for ours, theirs in names.items()}, output_hidden_states=True)
        logits = out.prediction_logits if family == 'bert' else out.logits
        np.savez_compressed(
            TESTS / 'models' / 'golden' / f'bert_transformers_{family}.npz',
            keys=np.array(list(shapes)),
            shapes=np.array([shape + (-1,) * (2 - len(shape)) for shape in shapes.values()], np.int32),
            tokens=out.hidden_states[-1].numpy(),
            logits=logits.numpy(),
            versions=np.array([f'{package} {version(package)}' for package in ('torch', 'numpy', 'transformers')]),
        )
        print(f'{family}: tokens {out.hidden_states[-1].std():.3f}, logits {logits.std():.3f} of {tuple(logits.shape)}')


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
