"""Several recipes side by side: the same data, splits and steps for each, over several seeds. Was transfer worth it?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jtl import config as configs
from jtl.errors import UserError
from jtl.recipes import find_recipe
from jtl.report.compare import compare_report
from jtl.report.stats import paired_difference, spread, verdict
from jtl.train.files import read_json, run_files, write_json, write_text
from jtl.train.run import run
from jtl.train.setup import checked

BASELINE = 'scratch'
"""The recipe that the others are paired with, where it is among them; else the first."""


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
      recipe: its name.
      choice: 'field=value' of the recipe's grid, '' without one.
      seed: of the run, and of its splits and shots.
      config: of the run.
    """

    recipe: str
    choice: str
    seed: int
    config: ConfigDict

    @property
    def place(self) -> str:
        """Its run directory, relative to the comparison's."""
        return '/'.join(part for part in (self.recipe, self.choice, f'seed_{self.seed}') if part)


def compare(
    config: ConfigDict, workdir: str, *, recipes: Sequence[str] = (), seeds: int = 0, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run every recipe with every seed and compare. What is finished is used again, what is unfinished goes on.

    Args:
      config: of all runs but for `tune.recipe`, `seed` and `data.seed`; its `compare` section holds the defaults of the rest.
      workdir: each run gets a directory `<recipe>/[<choice>/]seed_<n>` below it.
      recipes: names; default: `config.compare.recipes`.
      seeds: how many, from 0; default: `config.compare.seeds`. Seed n is also `data.seed`: each seed draws its own shots and splits,
        the same for every recipe.
      say: takes lines for a person.

    Returns:
      The content of comparison.json, which is written with comparison.html.

    Raises:
      UserError: an unknown recipe, no seeds, a grid that has no such field, or a run's own.
    """
    section = configs.frozen(checked(config)['compare'])
    names = tuple(recipes) or section['recipes']
    names = (names,) if isinstance(names, str) else names
    count = seeds or section['seeds']
    if not names or count < 1:
        raise UserError(f'compare: at least one recipe and one seed, found {names} and {count}.')
    for name in names:
        find_recipe(name)
    root = run_files(workdir).root
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    jobs = list(_jobs(config, names, section['grid'], count))
    for k, job in enumerate(jobs):
        say(f'\n[{k + 1} of {len(jobs)}] {job.place}')
        result = finished(job, f'{workdir}/{job.place}')
        if result is None:
            result = run(job.config, f'{workdir}/{job.place}', say=_quiet)
        else:
            say('finished before')
        results.setdefault((job.recipe, job.choice), []).append(result)
    comparison = gather(results, names, list(range(count)))
    write_json(root / 'comparison.json', comparison)
    links = {run: f'{run}/report.html' for figures in comparison['recipes'].values() for run in figures['runs']}
    write_text(root / 'comparison.html', compare_report(comparison, links))
    return comparison


def gather(results: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """The comparison of finished runs.

    Args:
      results: contents of result.json, one a seed in order, by (recipe, choice of its grid).
      names: of the recipes, in the order to show.
      seeds: their numbers.

    Returns:
      `recipes` -> name -> metric such as 'test/accuracy' -> mean, std, values; parameter counts, seconds and choices beside them;
      `paired` differences to scratch, and a `verdict` in sentences.
    """
    first = next(iter(results.values()))[0]
    split = next(name for name in ('test', 'validation', 'train') if f'{name}/{first["primary"]}' in first['metrics'])
    primary, maximize = f'{split}/{first["primary"]}', first['maximize']
    recipes: dict[str, Any] = {}
    for name in names:
        choices = {choice: runs for (recipe, choice), runs in results.items() if recipe == name}
        chosen = best_choice(choices, first['primary'], maximize)
        runs = choices[chosen]
        figures: dict[str, Any] = {
            metric: spread([r['metrics'][metric] for r in runs])
            for metric in runs[0]['metrics']
            if all(r['metrics'].get(metric) is not None for r in runs)
        }
        figures['trainable_parameters'] = runs[0]['parameters']['trainable']
        figures['optimizer_bytes'] = runs[0]['optimizer_bytes']
        figures['steps'] = runs[0]['steps']
        figures['seconds'] = spread([r['seconds'] for r in runs])
        figures['runs'] = ['/'.join(part for part in (name, chosen, f'seed_{seed}') if part) for seed in seeds]
        if len(choices) > 1:
            figures['chosen'] = chosen
            shown = dict.fromkeys([f'validation/{first["primary"]}', primary])
            figures['choices'] = {
                choice: {metric: spread([r['metrics'][metric] for r in tried]) for metric in shown} for choice, tried in choices.items()
            }
        recipes[name] = figures
    base = BASELINE if BASELINE in names else names[0]
    paired = {
        f'{name} - {base}': paired_difference(recipes[name][primary]['values'], recipes[base][primary]['values']).as_json(primary)
        for name in names
        if name != base and primary in recipes[name] and primary in recipes[base]
    }
    found = {'recipes': recipes, 'paired': paired, 'primary': primary, 'maximize': maximize, 'seeds': list(seeds)}
    return {**found, 'verdict': verdict(found)}


def best_choice(choices: Mapping[str, Sequence[Mapping[str, Any]]], primary: str, maximize: bool) -> str:
    """The choice with the best mean of the primary metric on validation. UserError where there are several and no validation split."""
    if len(choices) == 1:
        return next(iter(choices))
    means = {}
    for choice, runs in choices.items():
        values = [r['metrics'].get(f'validation/{primary}') for r in runs]
        if any(value is None for value in values):
            raise UserError(
                'config.compare.grid: choosing needs a validation split; set config.data.validation to a share of the training split.'
            )
        means[choice] = float(np.mean(values))
    return max(means, key=lambda choice: means[choice] if maximize else -means[choice])


def finished(job: Job, workdir: str) -> dict[str, Any] | None:
    """The result of a job whose run directory holds it, by the very same config; None where it has to run (or go on)."""
    files = run_files(workdir)
    if not files.result.exists() or not files.config.exists():
        return None
    old, new = read_json(files.config), checked(job.config)
    return None if configs.differences(old, new, (r'data\.workers', r'compare\..*')) else read_json(files.result)


def _jobs(config: ConfigDict, names: Sequence[str], grid: Mapping[str, Any], seeds: int) -> Iterator[Job]:
    for name in names:
        entry = grid.get(name)
        if entry is not None and (not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[1], tuple) or not entry[1]):
            raise UserError(f'config.compare.grid.{name}: a pair (field, values) such as ("optimizer.lr", (0.1, 0.01)), found {entry!r}.')
        for value in entry[1] if entry else (None,):
            for seed in range(seeds):
                yield Job(
                    name, f'{entry[0]}={value}' if entry else '', seed, job_config(config, name, seed, entry[0] if entry else '', value)
                )


def job_config(config: ConfigDict, recipe: str, seed: int, field: str = '', value: Any = None) -> ConfigDict:
    """The config of one run of a comparison. UserError for a grid field that the config does not have."""
    copy = ConfigDict(configs.frozen(configs.plain(config)))
    copy.tune.recipe, copy.seed, copy.data.seed = recipe, seed, seed
    return configs.override(copy, [f'--config.{field}={value}']) if field else copy


def _quiet(line: str) -> None:
    """The preflight of every run would say the same again."""
