"""`jtl probe` against scikit-learn on the same features: predictions, not scores, must be the same.

    python tests/benchmarks/probe_against_sklearn.py --config=configs/clothing.py --config.data.root=DIR --config.data.shots=60

The features are those of `jtl probe`, in `--cache=DIR` (a temporary directory by default). Neighbours with every metric and weighting at
several k, and the linear probe at every strength of `config.probe.l2`, with and without standardisation; then what `jtl probe` chooses.
Exit status 1 where a prediction differs.
"""

import sys
import tempfile
import warnings

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jtl.config import parse
from jtl.tasks.neighbours import knn
from jtl.tasks.probes import knn_probe, linear_probe
from jtl.tasks.ridge import ridge
from jtl.train.features import features, of_experiment
from jtl.train.setup import build, load_leaves

K = (1, 2, 5, 20, 50)
WEIGHTINGS = (('cosine', 'softmax'), ('cosine', 'uniform'), ('cosine', 'distance'), ('euclidean', 'uniform'), ('euclidean', 'distance'))


def main() -> int:
    caches = [a.partition('=')[2] for a in sys.argv[1:] if a.startswith('--cache=')]
    config = parse([a for a in sys.argv[1:] if not a.startswith('--cache=')]).config
    experiment = build(config)
    section, task, splits = experiment.config['probe'], experiment.task, experiment.data.splits
    with tempfile.TemporaryDirectory() as place:
        x = features(of_experiment(experiment, load_leaves(experiment)), splits, caches[0] if caches else place)
    y, wide = {name: splits[name].targets for name in x}, {name: rows.astype(np.float64) for name, rows in x.items()}
    differ = 0

    def compare(what: str, predict, reference) -> None:
        nonlocal differ
        line, wrong = [], 0
        for name in [name for name in x if name != 'train']:
            ours, theirs = predict(name), reference.predict(wide[name])
            wrong += int((ours != theirs).sum())
            line.append(f'{name} {np.mean(ours == y[name]):.4f} and {np.mean(theirs == y[name]):.4f}')
        print(f'{what}: {", ".join(line)}; {wrong} predictions differ')
        differ += wrong

    print('accuracy of jtl and of scikit-learn')
    for metric, weights in WEIGHTINGS:
        scheme = (lambda d: np.exp((1 - d) / section['temperature'])) if weights == 'softmax' else weights
        for k in K:
            reference = KNeighborsClassifier(k, metric=metric, weights=scheme, algorithm='brute').fit(wide['train'], y['train'])
            options = {'k': k, 'metric': metric, 'weights': weights, 'temperature': section['temperature'], 'classes': len(task.labels)}
            compare(
                f'knn {metric} {weights} k={k}',
                lambda name, options=options: knn(x['train'], y['train'], x[name], **options).argmax(axis=1),
                reference,
            )
    one_hot = np.where(y['train'][:, None] == np.arange(len(task.labels)), 1.0, -1.0)
    for standardize in (False, True):
        for model in ridge(x['train'], one_hot, section['l2'], standardize=standardize):
            steps = [StandardScaler()] if standardize else []
            with warnings.catch_warnings(action='ignore'):  # ill-conditioned: a weak penalty on many features
                reference = make_pipeline(*steps, RidgeClassifier(model.l2)).fit(wide['train'], y['train'])
            compare(
                f'linear{" standardised" if standardize else ""} l2={model.l2:g}',
                lambda name, model=model: model(x[name]).argmax(axis=1),
                reference,
            )
    print('\nwhat jtl probe says')
    for evaluator in (knn_probe, linear_probe):
        found = evaluator(x, y, task, section)
        print(found.said)
        for name, metrics in found.metrics(task, y).items():
            print(f'  {name}: {", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())}')
    print(f'\n{differ} predictions differ in all')
    return int(differ > 0)


if __name__ == '__main__':
    sys.exit(main())
