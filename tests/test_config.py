import re

import pytest
from ml_collections import ConfigDict

from jtl.config import ConfigError, check_fields, differences, flat, frozen, override, parse, plain

FILE = """
from ml_collections import ConfigDict, config_dict
def get_config():
    return ConfigDict({
        'seed': 0, 'lr': 0.1, 'flip': False, 'name': 'cnn', 'recipes': ('probe', 'full'), 'init_from': config_dict.placeholder(object),
        'tune': {'recipe': 'last', 'last': {'n': 1}}, 'grid': {},
        'phases': ({'name': 'a', 'steps': 3, 'train': (('heads/.*', 'head'),)}, {'name': 'b', 'steps': 4}),
    })
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'exp.py'
    path.write_text(FILE)
    return path


def value(config, field):
    return flat(config)[field]


@pytest.mark.parametrize(
    ('argument', 'field', 'wanted'),
    [
        ('seed=-4', 'seed', -4),
        ('lr=1', 'lr', 1.0),
        ('lr=1e-3', 'lr', 1e-3),
        ('flip=true', 'flip', True),
        ('name=efficientnet_lite0', 'name', 'efficientnet_lite0'),
        ('init_from=package:weights/a=b', 'init_from', 'package:weights/a=b'),
        ('tune.recipe=', 'tune.recipe', ''),
        ('tune.last.n=3', 'tune.last.n', 3),
        ("recipes=('probe',)", 'recipes', ['probe']),
        ('recipes=probe', 'recipes', ['probe']),
        ("recipes=('lp_ft','full','x')", 'recipes', ['lp_ft', 'full', 'x']),
        ('recipes=()', 'recipes', []),
        ('phases[0].steps=10', 'phases[0].steps', 10),
        ('phases[1].name=c', 'phases[1].name', 'c'),
        ("phases[0].train=(('backbone/.*','all'),)", 'phases[0].train[0]', ['backbone/.*', 'all']),
        ('phases=()', 'phases', []),
    ],
)
def test_one_field_changes_and_no_other(file, argument, field, wanted):
    before = parse([f'--config={file}']).config
    parsed = parse([f'--config={file}', f'--config.{argument}'])
    found = value(parsed.config, field)
    assert found == wanted and type(found) is type(wanted)
    assert parsed.overridden == (argument.partition('=')[0],)
    changed = differences(plain(before), plain(parsed.config))
    assert all(line.startswith(f'config.{field.rstrip("]").split("[")[0]}') for line in changed)
    assert len(changed) == 1 or field == 'phases', changed


def test_the_given_config_stays_as_it_is(file):
    config = parse([f'--config={file}']).config
    before = plain(config)
    new = override(config, ['--config.phases[0].steps=10', '--config.tune.last.n=2', '--config.seed=1', '--config.seed=2'])
    assert plain(config) == before
    assert (value(new, 'phases[0].steps'), value(new, 'tune.last.n'), new.seed) == (10, 2, 2)  # the last one holds


def test_flags_may_stand_apart_and_the_file_takes_an_argument(tmp_path):
    path = tmp_path / 'exp.py'
    path.write_text("from ml_collections import ConfigDict\ndef get_config(size='s'): return ConfigDict({'size': size, 'n': 1})\n")
    assert parse(['--config', f'{path}:xl', '--config.n', '5']).config.to_dict() == {'size': 'xl', 'n': 5}
    assert parse([f'--config={path}:']).config.size == ''
    assert parse([f'--config={path}']).config.size == 's'


@pytest.mark.parametrize(
    ('argument', 'says'),
    [
        ('sead=1', r"^--config\.sead: config has no field 'sead'\. Did you mean 'seed'\?$"),
        ('tune.last.m=1', r"^--config\.tune\.last\.m: config\.tune\.last has no field 'm'\. Known: n\.$"),
        ('seed.x=1', r"^--config\.seed\.x: config\.seed has no field 'x'\.$"),
        ('phases[2].steps=1', r'^--config\.phases\[2\]\.steps: config\.phases has 2 entries, there is no \[2\]\.$'),
        ('phases[-1].steps=1', r'there is no \[-1\]'),
        ('phases[0].stesp=1', r"config\.phases\[0\] has no field 'stesp'\. Did you mean 'steps'\?$"),
        ('name[0]=x', r'config\.name has 0 entries'),
        ('seed=1.5', r"^--config\.seed=1\.5: expected a value such as 0 \(int\): .*'1\.5'\.$"),
        ('seed=', r'^--config\.seed=: expected a value such as 0 \(int\)'),
        ('lr=fast', r'^--config\.lr=fast: expected a value such as 0\.1 \(float\)'),
        ('flip=maybe', r'^--config\.flip=maybe: expected a value such as False \(bool\)'),
        ('phases[0].steps=x', r'^--config\.phases\[0\]\.steps=x: expected a value such as 3 \(int\)'),
        ('tune=probe', r'^--config\.tune=probe: this is a section; set its fields, such as --config\.tune\.recipe\.$'),
        ('grid=x', r'^--config\.grid=x: this is a section'),
        ('seed', r'^--config\.seed: write --config\.seed=<value>\.$'),
    ],
)
def test_wrong_overrides_are_told_once(file, argument, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse([f'--config={file}', f'--config.{argument}'])
    message = str(caught.value)
    assert '\n' not in message and message.count(f'--config.{argument}') <= 2


def test_the_wrong_one_of_several_is_named(file):
    with pytest.raises(ConfigError, match=r'^--config\.lr=x'):
        parse([f'--config={file}', '--config.seed=3', '--config.lr=x', '--config.flip=true'])


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ([], r'^Give one config file'),
        (['--config='], r'^Give one config file'),
        (['--config'], r'^--config: write --config=<value>'),
        (['--config=a.py', '--config=b.py'], r'^Give one config file'),
        (['--config={file}', '--confg.seed=1'], r"^Unknown argument '--confg\.seed=1'"),
        (['--config={file}', 'seed=1'], r"^Unknown argument 'seed=1'"),
        (['--config={file}x'], r"^--config: there is no file .*exp\.pyx\. Did you mean '.*exp\.py'\?$"),
        (['--config={file}:big'], r'get_config\(\) takes no argument, found ":big"'),
    ],
)
def test_wrong_command_lines_are_told(file, arguments, says):
    with pytest.raises(ConfigError, match=says):
        parse([a.format(file=file) for a in arguments])


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('x = 1\n', r'exp\.py: there is no function get_config\(\) in it\.$'),
        ('def get_config(): return {}\n', r'must return an ml_collections\.ConfigDict, found dict\.$'),
        ('\n\ndef get_config(:\n', r'exp\.py, line 3: SyntaxError: '),
        ('def get_config():\n    x = 1\n    return x / 0\n', r'exp\.py, line 3: ZeroDivisionError: '),
        ('import no_such_thing\n', r"exp\.py, line 1: ModuleNotFoundError: .*'no_such_thing'"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    c = ConfigDict({'n': 1})\n    c.n = 'x'\n    return c\n",
            r'exp\.py, line 4: TypeError: ',
        ),
        (
            "from ml_collections import ConfigDict\ndef f(c): c.m.k = 1\ndef get_config():\n    f(ConfigDict({'n': 1}))\n",
            r'exp\.py, line 2: AttributeError: ',
        ),
    ],
)
def test_a_broken_file_says_its_line(tmp_path, text, says):
    (tmp_path / 'exp.py').write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        parse([f'--config={tmp_path}/exp.py'])
    assert '\n' not in str(caught.value)


def test_flat_plain_and_frozen():
    config = ConfigDict({'a': {'b': (1, 2)}, 'p': ({'steps': 3, 'train': (('x', 'y'),)},), 'e': {}, 'n': None})
    assert flat(config) == {'a.b': [1, 2], 'p[0].steps': 3, 'p[0].train[0]': ['x', 'y'], 'e': {}, 'n': None}
    assert frozen(plain(config)) == {'a': {'b': (1, 2)}, 'p': ({'steps': 3, 'train': (('x', 'y'),)},), 'e': {}, 'n': None}
    with pytest.raises(ConfigError, match='function'):
        plain(ConfigDict({'f': len}))


def test_differences_name_the_field_and_both_values():
    old = {'seed': 0, 'log_every': 10, 'phases': [{'steps': 3}], 'mesh': {'data': 1}, 'gone': 1}
    new = {'seed': 1, 'log_every': 20, 'phases': [{'steps': 4}], 'mesh': {'data': 8}, 'more': 2}
    assert differences(old, old) == []
    assert differences(old, new, ('log_every', r'mesh\..*')) == [
        "config.gone: 1 in the run, 'absent' now",
        "config.more: 'absent' in the run, 2 now",
        'config.phases[0].steps: 3 in the run, 4 now',
        'config.seed: 0 in the run, 1 now',
    ]
    assert any(line.startswith('config.log_every') for line in differences(old, new, ('log',))), 'a harmless pattern is a whole name'


DEFAULTS = ConfigDict({'seed': 0, 'lr': 0.1, 'flip': False, 'rules': (), 'model': {'name': 'cnn'}, 'tune': {'last': {'n': 1}}})
DEFAULTS.free = None


def test_check_fields_takes_what_has_the_kind_of_the_default():
    check_fields(
        ConfigDict({'seed': 3, 'lr': 1, 'rules': (('a', 'b'),), 'free': 'x', 'model': {'name': 'n', 'width': 3}}), DEFAULTS, ('model',)
    )
    check_fields(DEFAULTS, DEFAULTS, ())


@pytest.mark.parametrize(
    ('config', 'says'),
    [
        ({'sead': 1}, r"^config\.sead: there is no such field\. Did you mean 'seed'\?$"),
        ({'tune': {'last': {'m': 1}}}, r'^config\.tune\.last\.m: there is no such field\. Known: n\.$'),
        ({'model': 'cnn'}, r"^config\.model: this is a section with the fields name, found 'cnn'\.$"),
        ({'model': {'name': 3}}, r'^config\.model\.name: expected a string, found 3\.$'),
        ({'seed': 1.5}, r'^config\.seed: expected a whole number, found 1\.5\.$'),
        ({'seed': True}, r'^config\.seed: expected a whole number, found True\.$'),
        ({'lr': 'fast'}, r"^config\.lr: expected a number, found 'fast'\.$"),
        ({'flip': 1}, r'^config\.flip: expected True or False, found 1\.$'),
        ({'rules': 'a'}, r"^config\.rules: expected a tuple, found 'a'\.$"),
    ],
)
def test_check_fields_refuses(config, says):
    with pytest.raises(ConfigError, match=says):
        check_fields(ConfigDict(config), DEFAULTS, ('model',))


def test_the_default_config_checks_itself():
    from jtl.defaults import HARMLESS, OPEN_SECTIONS, default_config

    config = default_config()
    check_fields(config, default_config(), OPEN_SECTIONS)
    for pattern in HARMLESS:  # a misspelled field would never be forgiven
        assert any(re.fullmatch(pattern, field) for field in flat(config)), pattern


def test_options_of_the_named_functions_need_not_stand_in_the_file(tmp_path):
    path = tmp_path / 'c.py'
    path.write_text('from jtl import default_config as get_config\n')
    config = parse(
        [f'--config={path}', '--config.model.image_size=(96, 128)', '--config.model.bn_momentum=0.5', '--config.task.head=mlp']
    ).config
    assert config.model.image_size == (96, 128)
    assert config.model.bn_momentum == 0.5
    assert config.task.head == 'mlp'
