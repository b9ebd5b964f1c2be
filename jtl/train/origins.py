"""Where the leaves of a run come from: a checkpoint by its rules, initial values, or, when a run goes on, what its plan.json says."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jtl import config as configs
from jtl.checkpoint import adapt, leaf
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError, did_you_mean, some_of
from jtl.models.base import Model
from jtl.models.hub_preprocessing import preprocessing_beside
from jtl.models.net import Net
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing
from jtl.plan import LeafPlan, RuleHits
from jtl.rules import as_rules
from jtl.train.reading import Reading

NetAt = Callable[[tuple[int, ...]], Net]


@dataclass(frozen=True)
class Origins:
    """What is known of the start before anything is read.

    Attributes:
      leaves: by path.
      preprocessing: of the weights, or how texts are read.
      adaptation: how to read them; None from scratch, and where a run goes on (its own checkpoint has them).
      rules: the loading rules that decided a leaf.
      ignored: keys of the checkpoint that are declared not to be read.
      notes: sentences for the plan.
    """

    leaves: Mapping[str, LeafPlan]
    preprocessing: Preprocessing | TextPreprocessing
    adaptation: adapt.Adaptation | None = None
    rules: tuple[RuleHits, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_origins(plain: Mapping[str, Any], model: Model, net_at: NetAt, reading: Reading) -> tuple[Net, Origins]:
    """See how what `config.init_from` names fits the model.

    Args:
      plain: the checked config.
      model: knows the layouts of its checkpoints.
      net_at: the net for a size of its inputs; its parameters may depend on it.
      reading: the checkpoints, and how texts are read.

    Returns:
      The net at the size that the weights want, and its origins.

    Raises:
      CheckpointError: whatever does not fit and is not declared.
    """
    checkpoints, notes = reading.checkpoints, list(reading.notes)
    usual = reading.text or _pictures(model)
    net = net_at(usual.size)
    rules = loading_rules(plain['init_rules'])
    known = [weights.table for weights in model.weights]
    tables = {subtree: adapt.choose_table(checkpoint, known, net.shapes, rules) for subtree, checkpoint in checkpoints.items()}
    if reading.text is None:
        preprocessing: Preprocessing | TextPreprocessing = overridden(
            weights_preprocessing(model, checkpoints, tables, plain), plain['preprocessing']
        )
        if plain['preprocessing']:
            notes.append(
                f'preprocessing: {", ".join(sorted(plain["preprocessing"]))} as config.preprocessing says, the rest as the weights want.'
            )
    else:
        preprocessing = reading.text
        if plain['preprocessing']:
            raise UserError('config.preprocessing is about pictures, the data are texts; see config.text.')
    if preprocessing.size != usual.size:
        net = net_at(preprocessing.size)
    adaptation = None
    if checkpoints:
        sources = {subtree: adapt.Source(checkpoint, tables[subtree]) for subtree, checkpoint in checkpoints.items()}
        adaptation = adapt.adapt(net.shapes, sources, rules=rules, ignore=_patterns(plain['init_ignore']), head=plain['init_head'])
    return net, Origins(
        leaf_plans(net, adaptation),
        preprocessing,
        adaptation,
        tuple(loading_hits(adaptation)),
        tuple(f'{ignored.key} ({ignored.by})' for ignored in adaptation.ignored) if adaptation else (),
        tuple(notes),
    )


def _pictures(model: Model) -> Preprocessing:
    """The model's own preprocessing of pictures. UserError for a model that reads none."""
    if model.preprocessing is None:
        raise UserError("model.name: this model reads text, which the data are not. See data.name: 'text_csv', 'conll', ...")
    return model.preprocessing


def check_kept_head(adaptation: adapt.Adaptation | None, labels: Sequence[str]) -> None:
    """UserError where a head is loaded that was trained on other classes, or on these in another order, as its run or bundle says."""
    if adaptation is None:
        return
    for subtree, source in adaptation.sources.items():
        trained = source.checkpoint.metadata.get('labels')
        kept = any(path.startswith('heads/') and o.subtree == subtree and o.status != 'new' for path, o in adaptation.origins.items())
        if kept and trained and list(trained) != list(labels):
            raise UserError(
                f"config.init_head='keep': the head's outputs are {some_of(trained)}, the classes of the data {some_of(labels)}. "
                "Name the classes in the head's order (config.data.classes), or let a new head learn them: config.init_head='new'."
            )


def stored_origins(plan: Mapping[str, Any], net_at: NetAt, text: TextPreprocessing | None = None) -> tuple[Net, Origins]:
    """The origins that a run's plan.json tells, so that going on needs the foreign checkpoint no more; `text` is how it reads texts.

    Raises:
      CheckpointError: a plan.json of other leaves.
    """
    try:
        leaves = {
            row['path']: LeafPlan(
                row['path'], tuple(row['shape']), row['dtype'], row['statistic'], row['status'], row['source'], row['how'], row['sharding']
            )
            for row in plan['leaves']
        }
        rules = tuple(
            RuleHits(r['what'], r['phase'], r['pattern'], configs.frozen(r['value']), r['hits'], r['origin'])
            for r in plan['rules']
            if r['what'] == 'load'
        )
        found = Origins(
            leaves,
            text or Preprocessing.from_json(plan['preprocessing']),
            None,
            rules,
            tuple(plan['ignored']),
            tuple(plan['notes']),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f'plan.json is not that of a run ({type(error).__name__}: {error}). Begin again in another --workdir.'
        ) from None
    net = net_at(found.preprocessing.size)
    if list(leaves) != list(net.shapes):
        raise CheckpointError('plan.json has other leaves than the model. Begin again in another --workdir.')
    return net, found


def weights_preprocessing(
    model: Model, checkpoints: Mapping[str, Checkpoint], tables: Mapping[str, adapt.NameTable], plain: Mapping[str, Any]
) -> Preprocessing:
    """How the loaded weights want their pictures: a jtl run's or bundle's own, what lies beside them, a known table's, else the family's."""
    usual = _pictures(model)
    for subtree, checkpoint in checkpoints.items():
        if subtree not in ('', 'backbone'):
            continue
        if 'preprocessing' in checkpoint.metadata:
            found = Preprocessing.from_json(checkpoint.metadata['preprocessing'])
            return replace(found, size=usual.size) if plain['model']['image_size'] else found
        of_layout = next((w.preprocessing for w in model.weights if w.table == tables[subtree] and w.preprocessing), None)
        own = preprocessing_beside(checkpoint, of_layout or usual)
        if own is not None:
            return replace(own, size=usual.size) if plain['model']['image_size'] else own
        if of_layout is not None:
            return of_layout
    return usual


def overridden(preprocessing: Preprocessing, fields: Mapping[str, Any]) -> Preprocessing:
    """The weights' preprocessing with the fields of `config.preprocessing` in place of its own: for weights that jtl does not know.

    Raises:
      UserError: an unknown field (with the nearest), `size`, or values that no picture can be prepared with.
    """
    known = [field.name for field in dataclasses.fields(Preprocessing) if field.name != 'size']
    for name in fields:
        if name == 'size':
            raise UserError('config.preprocessing.size: the size of the pictures is model.image_size.')
        if name not in known:
            raise UserError(f'config.preprocessing.{name}: there is no such field. {did_you_mean(name, known)}'.rstrip())
    for name in ('mean', 'std'):
        value = fields.get(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
            raise UserError(f'config.preprocessing.{name}: a tuple of numbers, one for each channel, found {value!r}.')
    for name in ('scale', 'crop'):
        if name in fields and (not isinstance(fields[name], int | float) or isinstance(fields[name], bool)):
            raise UserError(f'config.preprocessing.{name}: a number, found {fields[name]!r}.')
    try:
        return replace(preprocessing, **configs.frozen(fields))
    except UserError as error:
        raise UserError(f'config.{error}') from None


def loading_rules(written: Sequence[Any]) -> tuple[Any, ...]:
    """`config.init_rules`: (pattern, template), (pattern, template, function, ...) or (pattern, None)."""
    pairs = []
    for rule in configs.frozen(written):
        if not isinstance(rule, tuple) or len(rule) < 2:
            raise UserError(f'config.init_rules: a rule is (path pattern, key template, leaf functions...), found {rule!r}.')
        pattern, template, *functions = rule
        value = (template, *leaf.as_functions(functions, f'config.init_rules, {pattern!r}')) if functions else template
        pairs.append((pattern, value))
    return as_rules(pairs, origin='config.init_rules')


def _patterns(written: Any) -> tuple[str, ...]:
    """`config.init_ignore`: patterns of checkpoint keys; one string is one pattern."""
    patterns = (written,) if isinstance(written, str) else tuple(written)
    if any(not isinstance(pattern, str) for pattern in patterns):
        raise UserError(f'config.init_ignore: patterns of checkpoint keys, found {written!r}.')
    return patterns


def leaf_plans(net: Net, adaptation: adapt.Adaptation | None) -> dict[str, LeafPlan]:
    """Where each leaf comes from, as the plan shows it."""
    found = {}
    for path, spec in net.shapes.items():
        origin = adaptation.origins[path] if adaptation else None
        how = leaf.describe(origin.functions) if origin and origin.functions else ''
        if origin and origin.cast:
            how = f'{how}, cast' if how else 'cast'
        found[path] = LeafPlan(
            path,
            tuple(spec.shape),
            str(spec.dtype),
            path in net.stats,
            origin.status if origin else 'new',
            (origin.key or '') if origin else '',
            how,
        )
    return found


def loading_hits(adaptation: adapt.Adaptation | None) -> list[RuleHits]:
    """The loading rules that decided a leaf, with their hits."""
    counts: dict[Any, int] = {}
    for origin in adaptation.origins.values() if adaptation else ():
        if origin.rule is not None:
            counts[origin.rule] = counts.get(origin.rule, 0) + 1
    return [RuleHits('load', '', rule.pattern, rule.value, n, rule.origin) for rule, n in counts.items()]
