"""scikit-learn's logistic regression on a config's frozen features: what a linear probe should reach.

    python tests/benchmarks/logistic_on_features.py --config=configs/clothing.py --config.data.root=DIR --config.data.shots=60

The features are the pooled output of the backbone as `init_from` gives it, of pictures prepared as in evaluation. The strength of the
regularisation is chosen on validation. Prints accuracies of validation and test.
"""

import sys

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jtl.config import parse
from jtl.data.pipeline import eval_batches
from jtl.models.base import unflatten
from jtl.train.setup import Experiment, build, load_leaves


def features(experiment: Experiment, leaves: dict, split: str) -> np.ndarray:
    """(N, D) pooled features."""
    net = experiment.net
    variables = {'params': unflatten({p: leaves[p] for p in net.params}, 'backbone')}
    if net.stats:
        variables['batch_stats'] = unflatten({p: leaves[p] for p in net.stats}, 'backbone')
    run = jax.jit(lambda batch: net.backbone.apply(variables, experiment.prepare(batch, None))['pooled'])
    found, data = [], experiment.data.splits[split]
    for batch in eval_batches(data, batch_size=64, preprocessing=experiment.preprocessing):
        found.append(np.asarray(run({'image': batch['image']})))
    return np.concatenate(found)[: len(data)]


def main() -> None:
    config = parse(sys.argv[1:]).config
    config.tune.recipe = 'probe'
    experiment = build(config)
    leaves = load_leaves(experiment)
    x = {split: features(experiment, leaves, split) for split in experiment.data.splits}
    y = {split: data.targets for split, data in experiment.data.splits.items()}
    scored = []
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(x['train'], y['train'])
        scored.append((model.score(x['validation'], y['validation']), model.score(x['test'], y['test']), strength))
        print(f'C {strength:g}: validation {scored[-1][0]:.4f}, test {scored[-1][1]:.4f}')
    best = max(scored)
    print(f'chosen on validation: C {best[2]:g}, test {best[1]:.4f}')


if __name__ == '__main__':
    main()
