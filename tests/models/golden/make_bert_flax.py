"""Writes bert_flax_<case>.msgpack with tiny BERTs of transformers' Flax classes, files of their own, and bert_flax.npz with what they give.

transformers 5 has no Flax classes, so they run in an environment of their own:

    python3.11 -m venv flax && flax/bin/pip install transformers==4.46.3 flax==0.8.5 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scipy==1.13.1
    flax/bin/python tests/models/golden/make_bert_flax.py
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent
WIDTHS = {'vocab_size': 20, 'max_position_embeddings': 7, 'num_labels': 3}
BERT = {'hidden_size': 8, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 12}
DISTILBERT = {'dim': 8, 'n_layers': 2, 'n_heads': 2, 'hidden_dim': 12}

sys.path.insert(0, str(GOLDEN.parent))

import golden_case  # noqa: E402


def fill(params: Any) -> Any:
    """Weights by golden_case's rule."""
    from flax.traverse_util import flatten_dict, unflatten_dict

    return unflatten_dict({key: golden_case.weight(key, leaf.shape) for key, leaf in flatten_dict(params, sep='/').items()}, sep='/')


def main() -> None:
    """Run the originals."""
    import transformers

    roberta = {**WIDTHS, **BERT, 'max_position_embeddings': 9, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5}
    cases = {
        'bert': ('BertForSequenceClassification', transformers.BertConfig(**WIDTHS, **BERT)),
        'bare': ('BertModel', transformers.BertConfig(**WIDTHS, **BERT)),
        'roberta': ('RobertaForMaskedLM', transformers.RobertaConfig(**roberta)),
        'distilbert': ('DistilBertForTokenClassification', transformers.DistilBertConfig(**WIDTHS, **DISTILBERT)),
    }
    found = {}
    for case, (name, config) in cases.items():
        model = getattr(transformers, f'Flax{name}')(config)
        model.params = fill(model.params)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            (GOLDEN / f'bert_flax_{case}.msgpack').write_bytes((Path(directory) / 'flax_model.msgpack').read_bytes())
        batch = golden_case.sentences(20, 6, config.pad_token_id)
        segments = {'token_type_ids': batch['segments']} if config.model_type == 'bert' else {}
        out = model(batch['ids'], batch['mask'].astype(np.int32), **segments, output_hidden_states=True)
        found[f'{case}/tokens'] = np.asarray(out.hidden_states[-1])
        found[f'{case}/outputs'] = np.asarray(out.pooler_output if case == 'bare' else out.logits)
        print(f'{case}: tokens {found[f"{case}/tokens"].std():.3f}, outputs {found[f"{case}/outputs"].std():.3f}')
    versions = [f'{name} {version(name)}' for name in ('transformers', 'flax', 'jax')]
    np.savez_compressed(GOLDEN / 'bert_flax.npz', versions=np.array(versions), **found)


if __name__ == '__main__':
    main()
