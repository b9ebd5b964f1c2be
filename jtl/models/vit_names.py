"""Where the leaves of a vision transformer lie in the checkpoints of timm, torchvision, Hugging Face, DINOv2, vision_transformer and big_vision."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jtl.checkpoint.adapt import NameTable
from jtl.checkpoint.leaf import Function
from jtl.errors import UserError, did_you_mean
from jtl.models.base import Weights
from jtl.models.preprocessing import Preprocessing, for_channels
from jtl.rules import as_rules

_TO_IN_OUT = ('transpose', 1, 0)
_TO_HWIO = ('transpose', 2, 3, 1, 0)

Rules = list[tuple[str, Any]]
Known = list[tuple['Layout', tuple[Preprocessing, ...], str]]
"""A layout, the preprocessing of its published weights (the usual size first), and their licence."""


@dataclass(frozen=True)
class Layout:
    r"""How one library names the leaves. `{}` stands for the kind of leaf (`weight`, `kernel`, `bias`), `\1` for the number of the block.

    Attributes:
      name: for people.
      patch, cls_token, position, registers: of the embeddings; '' where a layout never has them.
      norms, mlp, scales: the two of each block.
      qkv: all three in one array, in this order; or with `{qkv}` in the place of `query`, `key`, `value`.
      out: the dense layer behind the attention.
      norm, head: behind the blocks.
      representation: the tanh layer before the head.
      torch: PyTorch's axes and leaf names, else those of Flax.
      by_head: attention kernels are (D, heads, D / heads) and (heads, D / heads, D), as Linen's own attention has them.
      cls_position: the first of the positions is the class token's; else it is summed into the class token already, and starts at zero.
      resize: how the original resizes positions: 'grid', or 'torch_grid' where it does so when it runs.
      more: further keys that only this layout has, to tell it from another.
    """

    name: str
    patch: str
    position: str
    norms: tuple[str, str]
    qkv: str
    out: str
    mlp: tuple[str, str]
    norm: str
    head: str
    cls_token: str = 'cls_token'
    registers: str = ''
    scales: tuple[str, str] = ('', '')
    representation: str = ''
    torch: bool = True
    by_head: bool = False
    cls_position: bool = True
    resize: str = 'grid'
    ignore: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def _flax(layout: Layout, name: str) -> Layout:
    """The same module names with Flax's separator and leaf names, as transformers 4 wrote Flax models."""

    def slashes(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(slashes, value))
        return value.replace('\\.', '/').replace('.', '/') if isinstance(value, str) else value

    fields = {field: slashes(value) for field, value in vars(layout).items() if field not in ('name', 'torch')}
    return Layout(name=name, torch=False, **fields)


TIMM = Layout(
    'timm ViT',
    patch='patch_embed.proj.{}',
    position='pos_embed',
    norms=(r'blocks.\1.norm1.{}', r'blocks.\1.norm2.{}'),
    qkv=r'blocks.\1.attn.qkv.{}',
    out=r'blocks.\1.attn.proj.{}',
    mlp=(r'blocks.\1.mlp.fc1.{}', r'blocks.\1.mlp.fc2.{}'),
    norm='norm.{}',
    head='head.{}',
    scales=(r'blocks.\1.ls1.gamma', r'blocks.\1.ls2.gamma'),
)
# timm adds the class token's position to the token itself where there are registers.
TIMM_REGISTERS = replace(TIMM, name='timm DINOv2 with registers', registers='reg_token', cls_position=False)
DINOV2 = replace(TIMM, name='DINOv2', resize='torch_grid', more=('mask_token',), ignore=('mask_token',))
# torchvision resizes positions with aligned corners, offline, by a function that its models never call: here they get timm's resize.
TORCHVISION = Layout(
    'torchvision ViT',
    patch='conv_proj.{}',
    cls_token='class_token',
    position='encoder.pos_embedding',
    norms=(r'encoder.layers.encoder_layer_\1.ln_1.{}', r'encoder.layers.encoder_layer_\1.ln_2.{}'),
    qkv=r'encoder.layers.encoder_layer_\1.self_attention.in_proj_{}',
    out=r'encoder.layers.encoder_layer_\1.self_attention.out_proj.{}',
    mlp=(r'encoder.layers.encoder_layer_\1.mlp.0.{}', r'encoder.layers.encoder_layer_\1.mlp.3.{}'),
    norm='encoder.ln.{}',
    head='heads.head.{}',
    representation='heads.pre_logits.{}',
)
# The published files are older than the names that the library writes now, which reads both.
TORCHVISION_OLD = replace(
    TORCHVISION,
    name='torchvision ViT before 0.14',
    mlp=(r'encoder.layers.encoder_layer_\1.mlp.linear_1.{}', r'encoder.layers.encoder_layer_\1.mlp.linear_2.{}'),
)


def _hugging_face(name: str, prefix: str) -> Layout:
    layer = prefix + r'encoder.layer.\1.'
    return Layout(
        name,
        patch=prefix + 'embeddings.patch_embeddings.projection.{}',
        cls_token=prefix + 'embeddings.cls_token',
        position=prefix + 'embeddings.position_embeddings',
        norms=(layer + 'layernorm_before.{}', layer + 'layernorm_after.{}'),
        qkv=layer + 'attention.attention.{qkv}.{}',
        out=layer + 'attention.output.dense.{}',
        mlp=(layer + 'intermediate.dense.{}', layer + 'output.dense.{}'),
        norm=prefix + 'layernorm.{}',
        head='classifier.{}',
        representation=prefix + 'pooler.dense.{}',
        resize='torch_grid',
        ignore=(r'(.*\.)?embeddings\.mask_token',),
    )


def _hugging_face_dinov2(name: str, prefix: str, parts: 'Parts') -> Layout:
    layer = prefix + r'encoder.layer.\1.'
    return replace(
        _hugging_face(name, prefix),
        registers=prefix + 'embeddings.register_tokens',
        norms=(layer + 'norm1.{}', layer + 'norm2.{}'),
        mlp=(layer + 'mlp.weights_in.{}', layer + 'mlp.weights_out.{}') if parts.swiglu else (layer + 'mlp.fc1.{}', layer + 'mlp.fc2.{}'),
        scales=(layer + 'layer_scale1.lambda1', layer + 'layer_scale2.lambda1'),
        representation='',
        resize='grid' if parts.registers else 'torch_grid',
    )


HUGGING_FACE = (_hugging_face('transformers ViT', 'vit.'), _hugging_face('transformers ViT without head', ''))
HUGGING_FACE_FLAX = tuple(_flax(layout, layout.name.replace('transformers', 'transformers Flax')) for layout in HUGGING_FACE)

VISION_TRANSFORMER = Layout(
    'vision_transformer',
    patch='embedding/{}',
    cls_token='cls',
    position='Transformer/posembed_input/pos_embedding',
    norms=(r'Transformer/encoderblock_\1/LayerNorm_0/{}', r'Transformer/encoderblock_\1/LayerNorm_2/{}'),
    qkv=r'Transformer/encoderblock_\1/MultiHeadDotProductAttention_1/{qkv}/{}',
    out=r'Transformer/encoderblock_\1/MultiHeadDotProductAttention_1/out/{}',
    mlp=(r'Transformer/encoderblock_\1/MlpBlock_3/Dense_0/{}', r'Transformer/encoderblock_\1/MlpBlock_3/Dense_1/{}'),
    norm='Transformer/encoder_norm/{}',
    head='head/{}',
    representation='pre_logits/{}',
    torch=False,
    by_head=True,
)
# The published files are older than Linen and count all parts of a block together; Linen counts each class of its own.
VISION_TRANSFORMER_LINEN = replace(
    VISION_TRANSFORMER,
    name='vision_transformer since Linen',
    norms=(r'Transformer/encoderblock_\1/LayerNorm_0/{}', r'Transformer/encoderblock_\1/LayerNorm_1/{}'),
    qkv=r'Transformer/encoderblock_\1/MultiHeadDotProductAttention_0/{qkv}/{}',
    out=r'Transformer/encoderblock_\1/MultiHeadDotProductAttention_0/out/{}',
    mlp=(r'Transformer/encoderblock_\1/MlpBlock_0/Dense_0/{}', r'Transformer/encoderblock_\1/MlpBlock_0/Dense_1/{}'),
)
# Its class token joins after the positions were added. Its checkpoints hold the optimizer's state too.
BIG_VISION = replace(
    VISION_TRANSFORMER_LINEN, name='big_vision', position='pos_embedding', cls_position=False, ignore=(r'opt/.*', r'extra/.*')
)

_HALF = {'mean': (127.5,) * 3, 'std': (127.5,) * 3}
_IMAGENET = {'mean': (123.675, 116.28, 103.53), 'std': (58.395, 57.12, 57.375)}


def _sizes(*sides: int, crop: float, interpolation: str, **kind: Any) -> tuple[Preprocessing, ...]:
    """Of weights for the first side with a centre crop, and for larger ones without."""
    return tuple(
        Preprocessing(size=(side, side), interpolation=interpolation, crop=crop if k == 0 else 1.0, **kind) for k, side in enumerate(sides)
    )


# What the published weights of each layout were evaluated with: timm's default configurations (augreg, 224 and 384); torchvision's
# IMAGENET1K_V1 (short side 256) and SWAG_E2E_V1 (384, or 512 for L); preprocessor_config.json of google/vit-*; vision_transformer's own
# pipeline (resized to a square; here the middle) and big_vision's (256, middle 224).
_TIMM = _sizes(224, 384, crop=0.9, interpolation='bicubic', **_HALF)
_TORCHVISION = tuple(
    replace(p, interpolation='bicubic') if k else p
    for k, p in enumerate(_sizes(224, 384, 512, crop=224 / 256, interpolation='bilinear', **_IMAGENET))
)
_GOOGLE = _sizes(224, 384, crop=1.0, interpolation='bilinear', **_HALF)
_BIG_VISION = _sizes(224, 384, crop=224 / 256, interpolation='bilinear', **_HALF)
# facebook/deit-*: 256, middle 224; timm: 0.9.
_DEIT_TIMM = _sizes(224, 384, crop=0.9, interpolation='bicubic', **_IMAGENET)
_DEIT = _sizes(224, 384, crop=224 / 256, interpolation='bicubic', **_IMAGENET)
# DINOv2's linear evaluation and transformers: 224 of 256; timm: 518. All were trained on 518 in the end, and have its grid.
_DINOV2 = _DEIT[0]
_DINOV2_TIMM = replace(_DINOV2, size=(518, 518), crop=1.0)
_DINOV2_GRID = (518, 518)


class Parts(NamedTuple):
    """What a model has that its checkpoints must have too, and what is known of these.

    Attributes:
      width: of the transformer.
      patch: side of the weights' patches.
      image_size: of the pictures that the weights were trained on; None: that of the published weights.
      channels: of the model's pictures, 1 or 3.
      class_token, registers, positions (learnt), swiglu, representation: whether the model has them.
    """

    width: int
    patch: int
    image_size: tuple[int, int] | None
    channels: int
    class_token: bool
    registers: bool
    positions: bool
    swiglu: bool
    representation: bool


def known_weights(source: str, parts: Parts) -> tuple[Weights, ...]:
    """The checkpoints that a ViT can load.

    Published weights of one layout differ in the size of their pictures, which the count of positions tells: one table for each size
    that is known. The usual size comes last and without that condition, so that another count gives its message.

    Args:
      source: one of SOURCES.
      parts: of the model.

    Raises:
      UserError: an unknown source; channels other than 1 and 3.
    """
    if source not in SOURCES:
        raise UserError(f'model.source: there is no {source!r}. {did_you_mean(source, SOURCES)}'.rstrip())
    weights = []
    for layout, sizes, licence in SOURCES[source](parts):
        usual, *others = sizes
        if parts.image_size is not None:
            pairs = [(parts.image_size, usual if source == 'dinov2' else replace(usual, size=parts.image_size), False)]
        elif source == 'dinov2':
            pairs = [(_DINOV2_GRID, usual, False)]
        else:
            pairs = [(p.size, p, p is not usual) for p in (*others, usual) if parts.positions or p is usual]
        weights += [
            Weights(_table(layout, parts, trained, told_apart), for_channels(preprocessing, parts.channels), licence)
            for trained, preprocessing, told_apart in pairs
        ]
    return tuple(weights)


def _vit(parts: Parts) -> Known:
    return [
        (TIMM, _TIMM, 'Apache-2.0'),
        *((layout, _TORCHVISION, '') for layout in (TORCHVISION, TORCHVISION_OLD)),  # BSD-3-Clause; SWAG: CC-BY-NC-4.0
        *((layout, _GOOGLE, 'Apache-2.0') for layout in (*HUGGING_FACE, *HUGGING_FACE_FLAX)),
    ]


def _deit(parts: Parts) -> Known:
    return [
        (TIMM, _DEIT_TIMM, 'Apache-2.0'),
        *((layout, _DEIT, 'Apache-2.0') for layout in (*HUGGING_FACE, *HUGGING_FACE_FLAX)),
    ]


def _jax(parts: Parts) -> Known:
    return [
        (VISION_TRANSFORMER, _GOOGLE, 'Apache-2.0'),
        (VISION_TRANSFORMER_LINEN, _GOOGLE, 'Apache-2.0'),
        (BIG_VISION, _BIG_VISION, 'Apache-2.0'),
    ]


def _dinov2(parts: Parts) -> Known:
    # DINOv2 resizes its positions when it runs, with registers antialiased, without registers not. The latter's own code also scales by
    # (h + 0.1) / 37, which shifts the last of 16 rows by a fifth of a source row; left out here, as transformers leaves it out.
    official = replace(DINOV2, registers='register_tokens', resize='grid') if parts.registers else DINOV2
    timm = TIMM_REGISTERS if parts.registers else TIMM
    if parts.swiglu:
        official = replace(official, mlp=(r'blocks.\1.mlp.w12.{}', r'blocks.\1.mlp.w3.{}'))
    prefix = 'dinov2_with_registers.' if parts.registers else 'dinov2.'
    return [
        (official, (_DINOV2,), 'Apache-2.0'),
        (timm, (_DINOV2_TIMM,), 'Apache-2.0'),
        (_hugging_face_dinov2('transformers DINOv2', prefix, parts), (_DINOV2,), 'Apache-2.0'),
        (_hugging_face_dinov2('transformers DINOv2 without head', '', parts), (_DINOV2,), 'Apache-2.0'),
    ]


SOURCES: dict[str, Callable[[Parts], Known]] = {'vit': _vit, 'deit': _deit, 'jax': _jax, 'dinov2': _dinov2}


def _table(layout: Layout, parts: Parts, trained: tuple[int, int], told_apart: bool) -> NameTable:
    """The layout for weights trained on pictures of size `trained`, and where asked for only for as many positions as these have."""
    grid = (trained[0] // parts.patch, trained[1] // parts.patch)
    kernel = _leaf(layout, 'kernel')
    to_hwio = (_TO_HWIO,) if layout.torch else ()
    rules: Rules = [
        ('backbone/embeddings/patch/kernel', (layout.patch.format(kernel), *to_hwio, ('channels',), ('patch',))),
        ('backbone/embeddings/patch/bias', layout.patch.format('bias')),
    ]
    detect = [layout.patch.format(kernel), layout.mlp[0].replace(r'\1', '0').format(kernel), *layout.more]
    with_position = parts.class_token and layout.cls_position
    if parts.positions:
        skip = (('skip', 1, 0),) if with_position else ()
        rules.append(('backbone/embeddings/position', (layout.position, ('squeeze', 0), *skip, (layout.resize, *grid))))
        detect.append(layout.position)
    if parts.class_token:
        first = (layout.position, ('squeeze', 0), ('take', 1, 0), ('squeeze', 0))
        rules.append(('backbone/embeddings/cls_position', first if parts.positions and with_position else None))
        rules.append(('backbone/embeddings/cls_token', (layout.cls_token, ('reshape', -1))))
        detect.append(layout.cls_token)
    if parts.registers and layout.registers:
        rules.append(('backbone/embeddings/registers', (layout.registers, ('squeeze', 0))))
        detect.append(layout.registers)
    rules += _block(layout, parts.width)
    rules += _norm(layout, 'backbone/norm/layer_norm', layout.norm)
    head = _dense(layout, r'heads/[^/]+/output', layout.head)
    if layout.representation:
        # A layer that this model has not got belongs to the head: nobody misses it with a new one, and a kept one cannot do without.
        owner, path = (rules, 'backbone/representation/dense') if parts.representation else (head, r'heads/[^/]+/representation')
        owner += _dense(layout, path, layout.representation)
    count = grid[0] * grid[1] + with_position
    return NameTable(
        name=f'{layout.name}, {trained[0]} px' if told_apart else layout.name,
        detect=tuple(detect),
        shapes=((layout.position, (1, count, parts.width)),) if told_apart else (),
        rules=as_rules(rules, optional=True, origin=layout.name),
        head=as_rules(head, optional=True, origin=layout.name),
        ignore=layout.ignore,
    )


def _block(layout: Layout, width: int) -> Rules:
    block = r'backbone/block_(\d+)'
    rules: Rules = []
    for k in (0, 1):
        rules += _norm(layout, f'{block}/norm{k + 1}', layout.norms[k])
        rules += _dense(layout, f'{block}/mlp/fc{k + 1}', layout.mlp[k])
        if layout.scales[k]:
            rules.append((f'{block}/layer_scale_{k + 1}', layout.scales[k]))
    for i, name in enumerate(('query', 'key', 'value')):
        kernel: tuple[Function, ...] = (('reshape', width, -1),) if layout.by_head else ()
        bias: tuple[Function, ...] = (('reshape', -1),) if layout.by_head else ()
        if '{qkv}' not in layout.qkv:
            kernel = bias = (('part', i, 3, 0),)
        rules += _dense(layout, f'{block}/attention/{name}', layout.qkv.replace('{qkv}', name), kernel, bias)
    return rules + _dense(layout, f'{block}/attention/out', layout.out, (('reshape', -1, width),) if layout.by_head else ())


def _leaf(layout: Layout, ours: str) -> str:
    return 'weight' if layout.torch and ours in ('kernel', 'scale') else ours


def _dense(layout: Layout, path: str, key: str, kernel: tuple[Function, ...] = (), bias: tuple[Function, ...] = ()) -> Rules:
    kernel = (*kernel, _TO_IN_OUT) if layout.torch else kernel
    return [(f'{path}/kernel', (key.format(_leaf(layout, 'kernel')), *kernel)), (f'{path}/bias', (key.format('bias'), *bias))]


def _norm(layout: Layout, path: str, key: str) -> Rules:
    return [(f'{path}/{leaf}', key.format(_leaf(layout, leaf))) for leaf in ('scale', 'bias')]
