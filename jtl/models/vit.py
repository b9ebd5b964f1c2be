"""Vision transformers: ViT and DeiT at any patch and picture size, DINOv2 with its layer scale and registers.

Sources: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words; Touvron et al. 2021, Training data-efficient image transformers (the
sizes Ti and S); Oquab et al. 2023, DINOv2; Darcet et al. 2023, Vision Transformers Need Registers; Beyer et al. 2022, Better plain ViT
baselines (mean of the patch tokens, fixed sine positions).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.models.base import ATTENTION_AND_MLP, EVAL, Backbone, Features, Mode, Model, Stage
from jtl.models.layers import stochastic_depth
from jtl.models.vit_names import Parts, known_weights

GELUS = {'erf': partial(nn.gelu, approximate=False), 'tanh': partial(nn.gelu, approximate=True)}
POSITIONS = ('learned', 'sincos2d')

# As the original: Glorot's uniform for every dense layer, and embeddings as BERT's.
_dense_init = nn.initializers.xavier_uniform()
_embedding_init = nn.initializers.normal(0.02)


class Embeddings(nn.Module):
    """Patches of `image` (B,H,W,C) as vectors with their positions; the class token and registers.

    Gives `map` (B, H / patch, W / patch, width), and `tokens` (B, T, width) where there are any: the class token, then the registers.
    Parameters: `patch` (kernel, bias), `position` (h, w, width), `cls_token`, `cls_position`, `registers`. The class token's position
    stands apart, so that the others keep their grid; it starts at zero, since the sum of both is all that is ever read. Registers have
    no position.
    """

    patch: tuple[int, int]
    width: int
    class_token: bool = True
    registers: int = 0
    position: str = 'learned'
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` and `tokens` in the place of `image`."""
        rest = {name: value for name, value in features.items() if name != 'image'}
        patches = nn.Conv(
            self.width, self.patch, strides=self.patch, padding='VALID', dtype=self.dtype, param_dtype=self.param_dtype, name='patch'
        )(features['image'])
        batch, h, w, _ = patches.shape
        drop = nn.Dropout(self.dropout, deterministic=not mode.train)
        out = rest | {'map': drop(patches + self._positions(h, w))}
        if self.class_token or self.registers:
            out['tokens'] = drop(jnp.broadcast_to(self._tokens(), (batch, self.class_token + self.registers, self.width)))
        return out

    def _positions(self, h: int, w: int) -> Float[Array, 'h w d']:
        if self.position == 'sincos2d':
            return sincos2d(h, w, self.width).astype(self.dtype)
        return self.param('position', _embedding_init, (h, w, self.width), self.param_dtype).astype(self.dtype)

    def _tokens(self) -> Float[Array, 't d']:
        found = []
        if self.class_token:
            token = self.param('cls_token', _embedding_init, (self.width,), self.param_dtype)
            position = self.param('cls_position', nn.initializers.zeros, (self.width,), self.param_dtype)
            found.append((token.astype(self.dtype) + position.astype(self.dtype))[None])
        if self.registers:
            found.append(self.param('registers', _embedding_init, (self.registers, self.width), self.param_dtype).astype(self.dtype))
        return jnp.concatenate(found)


class Attention(nn.Module):
    """Multi-head self-attention. (B,T,D) -> (B,T,D); `query`, `key`, `value` and `out` are dense (D, D), heads side by side."""

    heads: int
    qkv_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        """What every token gathers from all."""
        dense = partial(nn.Dense, x.shape[-1], kernel_init=_dense_init, dtype=self.dtype, param_dtype=self.param_dtype)
        split = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        q, k, v = (dense(use_bias=self.qkv_bias, name=name)(x).reshape(split) for name in ('query', 'key', 'value'))
        return dense(name='out')(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))  # its softmax is in float32


class Mlp(nn.Module):
    """Dense, GELU, dense; or gated (SwiGLU), where `fc1` holds the gate and then what it gates. (B,T,D) -> (B,T,D)."""

    hidden: int
    gelu: str = 'erf'
    swiglu: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t d'], mode: Mode = EVAL) -> Float[Array, 'b t d']:
        """Every token on its own."""
        dense = partial(nn.Dense, kernel_init=_dense_init, dtype=self.dtype, param_dtype=self.param_dtype)
        y = dense(self.hidden * (2 if self.swiglu else 1), name='fc1')(x)
        if self.swiglu:
            gate, y = jnp.split(y, 2, axis=-1)
            y = nn.silu(gate) * y
        else:
            y = GELUS[self.gelu](y)
        return dense(x.shape[-1], name='fc2')(nn.Dropout(self.dropout, deterministic=not mode.train)(y))


class Block(nn.Module):
    """Norm, attention, norm, MLP, each branch scaled where asked for and added. Reads and gives `map` and `tokens`.

    Attributes:
      layer_scale: start of the scales `layer_scale_1` and `layer_scale_2` (D,) on the branches; 0 leaves them out.
      drop_rate: stochastic depth, the chance that training skips a branch for an example.
    """

    heads: int
    hidden: int
    qkv_bias: bool = True
    layer_scale: float = 0.0
    gelu: str = 'erf'
    swiglu: bool = False
    epsilon: float = 1e-6
    dropout: float = 0.0
    drop_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map` and `tokens`."""
        grid, tokens = features['map'], features.get('tokens')
        x = grid.reshape(len(grid), -1, grid.shape[-1])
        # Between two blocks XLA sees that what is cut apart is put together again, and does neither.
        x = x if tokens is None else jnp.concatenate([tokens, x], axis=1)
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        y = nn.LayerNorm(self.epsilon, name='norm1', **kinds)(x)
        y = Attention(self.heads, self.qkv_bias, name='attention', **kinds)(y)
        x = x + self._branch(y, mode, 'layer_scale_1')
        y = nn.LayerNorm(self.epsilon, name='norm2', **kinds)(x)
        y = Mlp(self.hidden, self.gelu, self.swiglu, self.dropout, name='mlp', **kinds)(y, mode)
        x = x + self._branch(y, mode, 'layer_scale_2')
        if tokens is None:
            return features | {'map': x.reshape(grid.shape)}
        count = tokens.shape[1]
        return features | {'tokens': x[:, :count], 'map': x[:, count:].reshape(grid.shape)}

    def _branch(self, y: Float[Array, 'b t d'], mode: Mode, scale: str) -> Float[Array, 'b t d']:
        y = nn.Dropout(self.dropout, deterministic=not mode.train)(y)
        if self.layer_scale:
            init = nn.initializers.constant(self.layer_scale)
            y = y * self.param(scale, init, (y.shape[-1],), self.param_dtype).astype(self.dtype)
        return stochastic_depth(self, y, self.drop_rate) if mode.train and self.drop_rate else y


class Norm(nn.Module):
    """LayerNorm of all tokens. Gives `map`, and `pooled` (B, width) from the class token where there is one; registers end here."""

    class_token: bool = True
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the normed `map` and `pooled`, without `tokens`."""
        rest = {name: value for name, value in features.items() if name != 'tokens'}
        norm = nn.LayerNorm(self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype, name='layer_norm')
        out = rest | {'map': norm(features['map'])}
        return out | {'pooled': norm(features['tokens'][:, 0])} if self.class_token else out


class Representation(nn.Module):
    """The original's last hidden layer: dense and tanh on `pooled`, or on the mean of `map` where there is no class token."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `pooled` (B, features)."""
        x = features['pooled'] if 'pooled' in features else features['map'].mean(axis=(1, 2))
        dense = nn.Dense(self.features, kernel_init=_dense_init, dtype=self.dtype, param_dtype=self.param_dtype, name='dense')
        return features | {'pooled': jnp.tanh(dense(x))}


def sincos2d(h: int, w: int, width: int) -> Float[Array, 'h w d']:
    """Fixed positions: sine and cosine of the column, then of the row, at width / 4 frequencies from 1 to 1/10000 (MoCo v3, big_vision)."""
    frequencies = 10_000.0 ** -jnp.linspace(0.0, 1.0, width // 4)
    y, x = (jnp.arange(n)[:, None] * frequencies for n in (h, w))
    rows = jnp.broadcast_to(jnp.concatenate([jnp.sin(y), jnp.cos(y)], axis=-1)[:, None], (h, w, width // 2))
    columns = jnp.broadcast_to(jnp.concatenate([jnp.sin(x), jnp.cos(x)], axis=-1)[None], (h, w, width // 2))
    return jnp.concatenate([columns, rows], axis=-1)


def vit(
    *,
    width: int,
    depth: int,
    heads: int,
    mlp: int = 0,
    patch: int | tuple[int, int] | None = None,
    class_token: bool = True,
    registers: int = 0,
    position: str = 'learned',
    qkv_bias: bool = True,
    layer_scale: float = 0.0,
    gelu: str = 'erf',
    swiglu: bool = False,
    epsilon: float = 1e-6,
    representation: int = 0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    image_channels: int = 3,
    source: str = 'vit',
    pretrained_patch: int = 16,
    pretrained_image_size: int | tuple[int, int] | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """A vision transformer; the features are `pooled` (B, width), the normed class token, and `map` (B, H / patch, W / patch, width), the
    normed patch tokens. Without class token there is no `pooled`: the task takes the mean of `map`.

    Stages: `embeddings`, `block_0` ... `block_<n>`, `norm` (tail), and with it `representation` (tail). Behind every stage but the last two
    the patch tokens are `map`, so that a task can pool them there too, and the class token and registers are `tokens`.

    Names: `vit_*` are those of timm, torchvision and Hugging Face (GELU by erf). `jax_vit_*` are the same nets as google-research trained
    them (GELU by tanh) and read the npz files of vision_transformer and big_vision. `deit_*` are `vit_*` with pictures normalised as DeiT,
    DINO and MAE have it, which no key tells. `dinov2_*` and `dinov2_*_reg` are DINOv2.

    Position embeddings are resized to the grid of the picture, square or not. The grid they come from is known for the published weights;
    for others tell `pretrained_image_size`. Patch kernels are resized from `pretrained_patch` to `patch`, and to `image_channels`.

    Args:
      width, depth, heads: of the transformer.
      mlp: width of its hidden layers; 0: four times `width`.
      patch: side of a patch in pixels, or (height, width); None: that of the weights.
      class_token: whether there is one.
      registers: how many further tokens.
      position: 'learned', or 'sincos2d' (fixed; big_vision's ViT-S/16).
      qkv_bias: whether query, key and value have biases.
      layer_scale: start of the learnt factors on every branch; 0: without them.
      gelu: 'erf', or 'tanh', its approximation.
      swiglu: a gated MLP in the place of the GELU's (DINOv2 g).
      epsilon: of LayerNorm. Hugging Face's ViT runs with 1e-12, whatever the weights were trained with.
      representation: width of a tanh layer before the head, as the original's ImageNet-21k weights have it; 0: without it.
      dropout: rate after the embeddings, in the MLP, and after both branches, in training.
      stochastic_depth: chance that training skips a branch of the last block, falling linearly to 0 at the first.
      image_channels: of the pictures.
      source: which published weights are meant, see above: 'vit', 'deit', 'jax' or 'dinov2'.
      pretrained_patch: side of the weights' patches.
      pretrained_image_size: side, or (height, width), of the pictures that the weights were trained on; None: as published.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range; from `inputs`, an image that does not divide into patches.
    """
    if min(width, depth, heads, image_channels, pretrained_patch) < 1 or min(mlp, registers, representation) < 0:
        raise UserError(
            'model: a ViT needs width, depth, heads, image_channels and pretrained_patch from 1, and mlp, registers and representation '
            f'from 0, found {width}, {depth}, {heads}, {image_channels}, {pretrained_patch} and {mlp}, {registers}, {representation}.'
        )
    if width % heads:
        raise UserError(f'model: width must be a multiple of heads, found {width} and {heads}.')
    if not (0 <= dropout < 1 and 0 <= stochastic_depth < 1):
        raise UserError(f'model: a ViT needs dropout and stochastic_depth in [0, 1), found {dropout} and {stochastic_depth}.')
    if position not in POSITIONS or gelu not in GELUS:
        raise UserError(f'model: position is one of {POSITIONS} and gelu one of {tuple(GELUS)}, found {position!r} and {gelu!r}.')
    if position == 'sincos2d' and (width % 4 or width < 8):
        raise UserError(f"model: position='sincos2d' needs a width that is a multiple of 4, from 8 up, found {width}.")
    if layer_scale < 0 or epsilon <= 0:
        raise UserError(f'model: a ViT needs layer_scale from 0 and epsilon above 0, found {layer_scale} and {epsilon}.')
    size = _pair('patch', pretrained_patch if patch is None else patch)
    trained = None if pretrained_image_size is None else _pair('pretrained_image_size', pretrained_image_size)
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    block = partial(
        Block, heads, mlp or 4 * width, qkv_bias, layer_scale, gelu=gelu, swiglu=swiglu, epsilon=epsilon, dropout=dropout, **kinds
    )
    rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
    stages = [
        Stage('embeddings', partial(Embeddings, size, width, class_token, registers, position, dropout, **kinds)),
        *(Stage(f'block_{i}', partial(block, drop_rate=rate)) for i, rate in enumerate(rates)),
        Stage('norm', partial(Norm, class_token, epsilon, **kinds), tail=True),
    ]
    if representation:
        stages.append(Stage('representation', partial(Representation, representation, **kinds), tail=True))

    def inputs(image_size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        if any(side < step or side % step for side, step in zip(image_size, size, strict=True)):
            near = ' x '.join(str(max(round(side / step), 1) * step) for side, step in zip(image_size, size, strict=True))
            raise UserError(
                f'model.image_size is {image_size[0]} x {image_size[1]}, which does not divide into patches of {size[0]} x {size[1]} pixels. '
                f'The nearest that does is {near}; or set model.patch.'
            )
        return {'image': jax.ShapeDtypeStruct((*image_size, image_channels), jnp.float32)}

    parts = Parts(
        width=width,
        patch=pretrained_patch,
        image_size=trained,
        channels=image_channels,
        class_token=class_token,
        registers=registers > 0,
        positions=position == 'learned',
        swiglu=swiglu,
        representation=representation > 0,
    )
    weights = known_weights(source, parts)
    usual = next(w.preprocessing for w in weights if not w.table.shapes)
    return Model(Backbone(stages=tuple(stages)), inputs, usual, weights, sharding=ATTENTION_AND_MLP)


def _pair(option: str, value: Any) -> tuple[int, int]:
    """A side, or (height, width), as two sides. UserError for anything else."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise UserError(f'model.{option} is a side, or (height, width), in pixels, found {value!r}.')
    return pair


TI: dict[str, Any] = {'width': 192, 'depth': 12, 'heads': 3}
S: dict[str, Any] = {'width': 384, 'depth': 12, 'heads': 6}
B: dict[str, Any] = {'width': 768, 'depth': 12, 'heads': 12}
L: dict[str, Any] = {'width': 1024, 'depth': 24, 'heads': 16}
G: dict[str, Any] = {'width': 1536, 'depth': 40, 'heads': 24, 'mlp': 4096}

vit_ti16 = partial(vit, **TI)
vit_s16 = partial(vit, **S)
vit_s32 = partial(vit, **S, pretrained_patch=32)
vit_b16 = partial(vit, **B)
vit_b32 = partial(vit, **B, pretrained_patch=32)
vit_l16 = partial(vit, **L)

deit_ti16 = partial(vit, **TI, source='deit')
deit_s16 = partial(vit, **S, source='deit')
deit_b16 = partial(vit, **B, source='deit')

jax_vit_ti16 = partial(vit_ti16, source='jax', gelu='tanh')
jax_vit_s16 = partial(vit_s16, source='jax', gelu='tanh')
jax_vit_s32 = partial(vit_s32, source='jax', gelu='tanh')
jax_vit_b16 = partial(vit_b16, source='jax', gelu='tanh')
jax_vit_b32 = partial(vit_b32, source='jax', gelu='tanh')
jax_vit_l16 = partial(vit_l16, source='jax', gelu='tanh')

_dinov2 = partial(vit, source='dinov2', pretrained_patch=14, layer_scale=1e-5)
dinov2_s14 = partial(_dinov2, **S)
dinov2_b14 = partial(_dinov2, **B)
dinov2_l14 = partial(_dinov2, **L)
dinov2_g14 = partial(_dinov2, **G, swiglu=True)
dinov2_s14_reg = partial(dinov2_s14, registers=4)
dinov2_b14_reg = partial(dinov2_b14, registers=4)
dinov2_l14_reg = partial(dinov2_l14, registers=4)
dinov2_g14_reg = partial(dinov2_g14, registers=4)
