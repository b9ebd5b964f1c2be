"""Every config plans with every recipe, and the checkpoint in the package is what its config makes."""

import re
from pathlib import Path

import config_data
import pytest

import jtl
from jtl.config import parse
from jtl.errors import UserError
from jtl.models.text import TextPreprocessing
from jtl.recipes import RECIPES
from jtl.tasks.base import HEAD
from jtl.train.setup import build, check_phases, phases_of

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / 'configs').glob('*.py'))
ASSET = 'package:jtl/assets/digits_0_to_4.msgpack'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_plans_with_every_recipe(name, root):
    config = config_data.config_on(name, root)
    experiment = build(config)
    main = experiment.net.read_by(HEAD)
    text = experiment.preprocessing if isinstance(experiment.preprocessing, TextPreprocessing) else None
    for recipe in RECIPES:
        plain = {**experiment.config, 'tune': {**experiment.config['tune'], 'recipe': recipe}}
        phases = phases_of(plain, experiment.net, max(len(experiment.data.splits['train']), 99 * plain['batch_size']))
        if recipe == 'ulmfit' and config.tune.recipe != recipe:
            with pytest.raises(UserError, match=r"phase 'general_lm': there is no task 'lm'\. Describe it in config\.tasks\.lm, "):
                check_phases(phases, plain, experiment.tasks, experiment.sources, text)
            continue
        check_phases(phases, plain, experiment.tasks, experiment.sources, text)
        leaves = {leaf.path: leaf for leaf in experiment.plan.leaves}
        plan = jtl.make_plan(experiment.net, phases, leaves, optimizer=plain['optimizer'])
        assert {path for path in main if path.startswith(f'heads/{HEAD}/')} <= plan.trained
        assert (plan.trained >= main) == (recipe not in ('probe', 'last'))
        assert plan.trained <= main or recipe == 'ulmfit'


def shipped_accuracy():
    """Of the checkpoint in the package, on the test pictures of its own task."""
    config = parse([f'--config={ROOT / "configs" / "digits_source.py"}']).config
    config.init_from, config.init_head = ASSET, 'keep'
    config.tune.recipe = 'full'
    shipped = build(config)
    assert {leaf.status for leaf in shipped.plan.leaves} == {'loaded'}
    return jtl.evaluate(jtl.prediction_step(shipped), jtl.load_leaves(shipped), shipped, shipped.data.splits['test']).metrics['accuracy']


def test_the_source_checkpoint_is_as_accurate_as_its_config_says():
    stated = re.search(r'([\d.]+) % of 1424 test pictures', (ROOT / 'configs' / 'digits_source.py').read_text())
    assert shipped_accuracy() == pytest.approx(float(stated[1]) / 100, abs=1e-3)


@pytest.mark.slow
def test_the_source_checkpoint_is_what_its_config_makes(tmp_path):
    config = parse([f'--config={ROOT / "configs" / "digits_source.py"}']).config
    result = jtl.run(config, str(tmp_path / 'run'), say=lambda line: None)
    assert result['metrics']['test/accuracy'] == pytest.approx(shipped_accuracy(), abs=0.02)


def test_quickstart_transfers_from_the_source(tmp_path):
    """A seed of the quickstart, and the same net from scratch: the gap that its docstring reports, with room for another seed."""
    accuracy = {}
    for recipe, rate in (('full', 0.005), ('scratch', 0.005)):
        config = parse(
            [f'--config={ROOT / "configs" / "quickstart.py"}', f'--config.tune.recipe={recipe}', f'--config.optimizer.lr={rate}']
        ).config
        accuracy[recipe] = jtl.run(config, str(tmp_path / recipe), say=lambda line: None)['metrics']['test/accuracy']
    assert accuracy['full'] - accuracy['scratch'] > 0.05
