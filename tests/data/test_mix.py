import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jtl.data.mix import Mixing, boxes, defaults, mix, mixing_of, partners, symmetric_beta
from jtl.errors import UserError

SIZE = (16, 24)


def flat_pictures(b, size=SIZE):
    """Picture i is i + 1 everywhere: what is mixed into what can be read off."""
    return np.broadcast_to(np.arange(1.0, b + 1)[:, None, None, None], (b, *size, 3)).astype(np.float32)


@jax.jit
def mixed_by(images, key):
    return mix(images, key, Mixing(0.8, 1.0))


@pytest.fixture(scope='module')
def both():
    """Flat pictures, what mixup and cutmix make of them, and shares."""
    images = flat_pictures(64)
    return images, *map(np.asarray, mixed_by(images, jax.random.key(0)))


def test_an_example_has_its_share_and_the_one_before_it_the_rest(both):
    _, mixed, share = both
    own, partner = np.arange(1, 65), np.roll(np.arange(1, 65), 1)
    np.testing.assert_array_equal(partners({'label': own})['label'], partner)
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), share * own + (1 - share) * partner, rtol=1e-5)
    assert share.shape == (64,) and 0 <= share.min() < 0.1 and 0.9 < share.max() <= 1


def test_each_example_takes_mixup_or_cutmix(both):
    """Mixup's picture is flat; cutmix's is its own but for a box of the partner's whose area is the partner's share."""
    images, mixed, share = both
    blended = 0
    for i, picture in enumerate(mixed):
        if np.ptp(picture) < 1e-4:
            blended += 1
            continue
        pasted = picture[..., 0] != images[i, ..., 0]
        np.testing.assert_array_equal(picture[pasted], images[i - 1][pasted])
        assert pasted.mean() == pytest.approx(1 - share[i], abs=1e-6)
        ys, xs = np.nonzero(pasted)
        assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)  # one box
    assert 20 <= blended <= 44  # binomial(64, 1/2) lies outside once in a thousand keys


def test_boxes_have_the_area_that_the_edges_leave_of_the_share():
    """Against a loop with the formulas of Yun et al., and everywhere equally likely."""
    share = np.asarray(np.random.default_rng(0).uniform(0, 1, 4000), np.float32)
    inside = np.asarray(jax.jit(lambda s: boxes(jax.random.key(1), s, SIZE))(share))
    for box, lam in zip(inside, share, strict=True):
        sides = [int(np.float32(side) * np.sqrt(np.float32(1) - lam)) // 2 * 2 for side in SIZE]
        ys, xs = (np.flatnonzero(box.any(axis=axis)) for axis in (1, 0))
        assert box.sum() == len(ys) * len(xs)
        for found, wanted, side in zip((ys, xs), sides, SIZE, strict=True):
            if not box.any():
                assert min(sides) <= 1
            elif found[0] > 0 and found[-1] < side - 1:  # not clipped
                assert len(found) == wanted
            else:
                assert wanted / 2 - 1 <= len(found) <= wanted
    middle, corner = inside[:, 8, 12].mean(), inside[:, 0, 0].mean()
    assert middle > 1.8 * corner > 0.1
    small = inside[share > 0.9]
    np.testing.assert_allclose(small[:, 6:10].mean(), small[:, :, 8:16].mean(), rtol=0.15)


def test_shares_follow_their_beta_distribution():
    alphas = np.array([0.1, 0.2, 0.5, 1.0, 4.0, 100.0], np.float32)
    found = jax.jit(symmetric_beta)(jax.random.key(2), np.repeat(alphas[:, None], 40_000, axis=1))
    for alpha, share in zip(alphas, np.float64(found), strict=True):
        assert np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1
        low = share[share < 0.5]  # near 1 float32 is too coarse for the shares of a small alpha
        assert stats.kstest(low, lambda x, a=alpha: 2 * stats.beta(a, a).cdf(x)).pvalue > 0.01
        assert share.mean() == pytest.approx(0.5, abs=0.01)
        assert share.var() == pytest.approx(1 / (8 * alpha + 4), rel=0.03)


def test_a_key_says_everything(both):
    images, mixed, share = both
    again = mixed_by(images, jax.random.key(0))
    np.testing.assert_array_equal(again[0], mixed)
    np.testing.assert_array_equal(again[1], share)
    assert (np.asarray(mixed_by(images, jax.random.key(1))[1]) != share).mean() > 0.9
    half, _ = jax.eval_shape(mixed_by, images.astype(jnp.bfloat16), jax.random.key(0))
    assert half.dtype == jnp.bfloat16


def test_nothing_is_mixed_by_default_and_bad_alphas_are_told():
    assert mixing_of(defaults()) is None
    assert mixing_of({'mixup': 0.2, 'flip': True}) == Mixing(0.2, 0.0)
    for name, value in (('mixup', -0.1), ('cutmix', float('inf')), ('cutmix', float('nan'))):
        with pytest.raises(UserError, match=rf'^config\.augment\.{name}: alpha .* found {value}'):
            mixing_of({**defaults(), name: value})
