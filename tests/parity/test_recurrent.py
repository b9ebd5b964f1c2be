"""LSTM and GRU against PyTorch: random weights in files that it wrote, rows of any length packed as its users do."""

import jax
import numpy as np
import pytest
import text_reference

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.sources import open_checkpoint
from jtl.models import build_model
from jtl.models.base import WORDS, Mode, init_shapes, unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')

VOCABULARY, WIDTH, HIDDEN, CLASSES = 40, 7, 6, 3
LENGTHS = [9, 1, 4, 9, 2]
DEPTHS = [(1, False), (2, False), (1, True), (2, True)]


class Classifier(torch.nn.Module):
    """The model of every tutorial; `names` are those of its embedding, its recurrent net and its head."""

    def __init__(self, kind, names=('embedding', 'rnn', 'fc'), layers=1, two=False):
        super().__init__()
        self.names = names
        net = {'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[kind]
        modules = (
            torch.nn.Embedding(VOCABULARY, WIDTH, padding_idx=0),
            net(WIDTH, HIDDEN, layers, bidirectional=two, batch_first=True),
            torch.nn.Linear(HIDDEN * (1 + two), CLASSES),
        )
        for name, module in zip(names, modules, strict=True):
            setattr(self, name, module)

    def forward(self, ids, lengths):
        embedding, rnn, head = (getattr(self, name) for name in self.names)
        packed = torch.nn.utils.rnn.pack_padded_sequence(embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        packed, last = rnn(packed)
        tokens, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=ids.shape[1])
        h_n = last[0] if isinstance(last, tuple) else last
        ways = 1 + rnn.bidirectional
        pooled = h_n.view(rnn.num_layers, ways, *h_n.shape[1:])[-1].transpose(0, 1).reshape(len(ids), -1)
        return tokens, pooled, head(pooled)


def _batch():
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (len(LENGTHS), max(LENGTHS) + 2))
    mask = np.arange(ids.shape[1]) < np.array(LENGTHS)[:, None]
    return {'ids': np.where(mask, ids, 0).astype(np.int32), 'mask': mask}


def _original(*args, **options):
    torch.manual_seed(0)
    original = Classifier(*args, **options)
    for x in original.state_dict().values():  # PyTorch's own start would be small enough to hide a lost term
        x.copy_(torch.randn(x.shape))
    return original.eval()


def _compare(found, wanted):
    found, wanted = np.asarray(found), wanted.detach().numpy()
    assert np.abs(wanted).max() > 0.5, 'outputs too small to tell anything'
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of values up to {np.abs(wanted).max():.2f}')
    assert found.shape == wanted.shape and difference <= 1e-5, difference


def _model(kind, layers, two):
    options = {'embedding': WIDTH, 'hidden': HIDDEN, 'layers': layers, 'bidirectional': two}
    return build_model({'name': kind, 'vocab_size': VOCABULARY, **options})


@pytest.mark.parametrize(('layers', 'two'), DEPTHS)
@pytest.mark.parametrize('kind', ['lstm', 'gru'])
def test_states_last_states_and_logits(tmp_path, kind, layers, two):
    original = _original(kind, layers=layers, two=two)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    model, batch = _model(kind, layers, two), _batch()
    head, shapes = text_reference.dense_head(HIDDEN * (1 + two), CLASSES)
    leaves = text_reference.load(model, open_checkpoint(str(tmp_path / 'model.pth')), shapes)
    found = text_reference.run(model, leaves, batch)
    tokens, pooled, logits = original(torch.tensor(batch['ids']).long(), LENGTHS)
    _compare(found['tokens'], tokens)  # the filling too: zeros
    _compare(found['pooled'], pooled)
    _compare(text_reference.dense_outputs(head, leaves, found['pooled']), logits)


@pytest.mark.parametrize(
    'names', [('embedding', 'lstm', 'fc'), ('embeddings', 'rnn', 'fc'), ('embed', 'lstm', 'fc'), ('encoder', 'rnn', 'decoder')]
)
def test_names_of_modules_inside_a_wrapped_model(tmp_path, names):
    original = _original('lstm', names, layers=2, two=True)
    torch.save({'state_dict': torch.nn.DataParallel(original).state_dict(), 'epoch': 3}, tmp_path / 'model.pth')
    model, batch = _model('lstm', 2, True), _batch()
    _, shapes = text_reference.dense_head(2 * HIDDEN, CLASSES)
    found = text_reference.run(model, text_reference.load(model, open_checkpoint(str(tmp_path / 'model.pth')), shapes), batch)
    _compare(found['tokens'], original(torch.tensor(batch['ids']).long(), LENGTHS)[0])


@pytest.mark.parametrize('kind', ['lstm', 'gru'])
def test_the_recurrent_module_alone(tmp_path, kind):
    """Its own state dict, on vectors that are no words: the layers run without the embeddings."""
    original = _original(kind, layers=2, two=True).rnn
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    model, checkpoint = _model(kind, 2, True), open_checkpoint(str(tmp_path / 'model.pth'))
    shapes, _ = init_shapes(model.backbone, model.inputs((8,)))
    table = choose_table(checkpoint, [weights.table for weights in model.weights], shapes)
    origins = adapt(shapes, {'': Source(checkpoint, table)}).origins
    assert [path for path, origin in origins.items() if origin.status == 'new'] == [WORDS]
    leaves = {path: read(origin, checkpoint) for path, origin in origins.items() if path != WORDS}
    x = np.random.default_rng(1).normal(size=(3, 8, WIDTH)).astype(np.float32)
    features = {'tokens': x, 'mask': np.ones((3, 8), bool)}
    found = model.backbone.apply({'params': unflatten(leaves, 'backbone')}, features, start='layer_0')
    _compare(found['tokens'], original(torch.tensor(x))[0])


@pytest.mark.parametrize(('kind', 'two'), [('lstm', True), ('gru', False)])
def test_gradients(tmp_path, kind, two):
    """Of the sum of squares of the last states, which pass every gate, at both ends of every row."""
    original = _original(kind, layers=2, two=two)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    model, batch = _model(kind, 2, two), _batch()
    _, shapes = text_reference.dense_head(HIDDEN * (1 + two), CLASSES)
    leaves = text_reference.load(model, open_checkpoint(str(tmp_path / 'model.pth')), shapes)
    params = {path: leaf for path, leaf in leaves.items() if path.startswith('backbone/')}

    def loss(params):
        modes = {stage.name: Mode(train=True) for stage in model.backbone.stages}
        out = model.backbone.apply({'params': unflatten(params, 'backbone')}, batch, modes)
        return (out['pooled'] ** 2).sum()

    found = jax.grad(loss)(params)
    (original(torch.tensor(batch['ids']).long(), LENGTHS)[1] ** 2).sum().backward()
    theirs = dict(original.named_parameters())
    assert len(found) == len(theirs) - 2, 'all but the head'
    for end, way in {'': 'forward', '_reverse': 'backward'}.items() if two else {'': 'forward'}.items():
        for layer in range(2):
            for part, name in {'input': 'ih', 'hidden': 'hh'}.items():
                ours = f'backbone/layer_{layer}/{way}/{part}'
                np.testing.assert_allclose(found[f'{ours}/kernel'].T, theirs[f'rnn.weight_{name}_l{layer}{end}'].grad, atol=1e-4)
                np.testing.assert_allclose(found[f'{ours}/bias'], theirs[f'rnn.bias_{name}_l{layer}{end}'].grad, atol=1e-4)
    np.testing.assert_allclose(found[WORDS], theirs['embedding.weight'].grad, atol=1e-4)
