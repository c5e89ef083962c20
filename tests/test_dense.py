import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.models import Dropout, conv, dense
from tests.helpers import random_params, small_model


@pytest.mark.parametrize('shape', [(1, 9, 7, 3), (2, 6, 6, 20)])
def test_convolutions_equal_a_loop(shape):
  random = np.random.default_rng(0)
  maps = random.normal(size=shape)
  kernel = random.normal(size=(3, 2, shape[3], 5))
  h, w = shape[1] - 2, shape[2] - 1
  expected = np.zeros((shape[0], h, w, 5))
  for y in range(h):
    for x in range(w):
      expected[:, y, x] = np.einsum('bhwc,hwco->bo', maps[:, y:y + 3, x:x + 2], kernel)
  for convolve in (conv.conv_product, conv.conv_lax, conv.conv_valid):
    np.testing.assert_allclose(
        convolve(jnp.asarray(maps, jnp.float32), jnp.asarray(kernel, jnp.float32)),
        expected, atol=1e-4)


def test_max_pool_drops_an_odd_last_row():
  maps = jnp.arange(25.).reshape(1, 5, 5, 1)
  np.testing.assert_array_equal(conv.max_pool(maps)[0, ..., 0], [[6, 8], [16, 18]])


@pytest.mark.parametrize('n_xy, aligned, coarse', [
    (33, False, 0), (33, True, 2), pytest.param(49, True, 0, marks=pytest.mark.long),
    pytest.param(49, False, 5, marks=pytest.mark.long),
    pytest.param(241, False, 0, marks=pytest.mark.long)])
def test_dense_equals_one_patch_per_voxel(n_xy, aligned, coarse):
  model = small_model(n_xy, 3, coarse=coarse)
  params = random_params(model)
  sides = [model.dense_px(t) if aligned else model.window_px + t - 1 for t in (16, 32)]
  window = jax.random.normal(jax.random.key(5), (2, *sides, 3))
  logits = jax.jit(model.apply_dense, static_argnums=3)(params, window, None, (16, 32))
  assert logits.shape == (2, 16, 32)
  apply = jax.jit(model.apply)
  side = model.window_px
  for y, x in [(0, 0), (15, 31), (3, 8), (6, 17), (13, 1)]:
    patch = window[:, y:y + side, x:x + side]
    np.testing.assert_allclose(logits[:, y, x], apply(params, patch), atol=1e-4)


def test_the_coarse_path_sees_as_far_as_it_says_and_its_own_channels_matter():
  """One pixel moves the logit exactly if it is within its 252 + 16 pixels."""
  model = small_model(33, 1, coarse=2)
  params = random_params(model)
  side = model.window_px
  window = np.array(jax.random.normal(jax.random.key(3), (1, side, side, 1)))
  apply = jax.jit(model.apply)
  changed = window.copy()
  changed[0, 0, model.before_px] += 3
  assert apply(params, changed)[0] != apply(params, window)[0]
  assert side == 33 - 1 + 60 + 2 * 92 and model.before_px == 16 + 30 + 92
  without = {**params, 'coarse5': jax.tree.map(jnp.zeros_like, params['coarse5'])}
  np.testing.assert_array_equal(apply(without, changed), apply(without, window))


def test_dense_is_translation_equivariant():
  model = small_model(33, 1)
  params = random_params(model)
  big = jax.random.normal(jax.random.key(1), (1, 91 + 48, 91 + 48, 1))
  apply = jax.jit(model.apply_dense)
  whole = apply(params, big)
  part = apply(params, big[:, 5:5 + 91 + 32, 11:11 + 91 + 32])
  np.testing.assert_allclose(whole[:, 5:37, 11:43], part, atol=1e-5)


@pytest.mark.long
def test_gradient_of_dense_is_the_sum_of_patch_gradients():
  model = small_model(33, 1)
  params = random_params(model)
  window = jax.random.normal(jax.random.key(1), (1, 107, 107, 1))
  weights = jax.random.normal(jax.random.key(2), (1, 16, 16))
  chosen = [(0, 0), (7, 9), (15, 15)]
  mask = jnp.zeros((1, 16, 16)).at[0, *jnp.array(chosen).T].set(1.)
  weights = weights * mask

  def by_patch(p):
    patches = jnp.concatenate([window[:, y:y + 92, x:x + 92] for y, x in chosen])
    values = jnp.stack([weights[0, y, x] for y, x in chosen])
    return jnp.sum(values * model.apply(p, patches))

  expected = jax.jit(jax.grad(by_patch))(params)
  found = jax.jit(jax.grad(
      lambda p: jnp.sum(weights * model.apply_dense(p, window))))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3),
               expected, found)


@pytest.mark.long
def test_dropout_in_the_dense_form_is_fresh_and_keeps_the_mean():
  model = small_model(33, 1)
  params = random_params(model)
  window = jax.random.normal(jax.random.key(1), (1, 107, 107, 1))
  apply = jax.jit(model.apply_dense)
  drawn = [apply(params, window, Dropout(jax.random.key(i), 0.2, 0.1))
           for i in (0, 0, 1)]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert float(jnp.abs(drawn[0] - drawn[2]).max()) > 1e-3
  none = apply(params, window, Dropout(jax.random.key(0), 0., 0.))
  np.testing.assert_allclose(none, apply(params, window), atol=1e-6)


@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('strip_px', [22, 3 * 22, 10 ** 6])
def test_strips_give_the_values_and_gradients_of_whole_maps(dilation, strip_px,
                                                            monkeypatch):
  keys = jax.random.split(jax.random.key(0), 3)
  maps = jax.random.normal(keys[0], (2, 13, 11, 3))
  kernel = jax.random.normal(keys[1], (3, 2, 3, 4))
  direction = jax.random.normal(keys[2], (2, 13 - 2 * dilation, 11 - dilation, 4))
  monkeypatch.setattr(conv, 'STRIP_PX', strip_px)
  found, expected = (
      (f(maps, kernel, dilation), *jax.grad(
          lambda m, k, f=f: jnp.sum(direction * f(m, k, dilation)), (0, 1))(
              maps, kernel)) for f in (conv.conv_strips, conv.conv_lax))
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def _sine(weights, maps):
  return jnp.sin(maps + weights['bias'][None, None, None])[:, :, 1:]


@pytest.mark.parametrize('taps, dilation, pooled, out_yx', [
    (2, 4, 2, (16, 16)), (3, 1, 0, (8, 12)), (3, 2, 1, (16, 8)), (3, 4, 2, (1, 3)),
    (4, 1, 0, (8, 8)), *(pytest.param(*case, marks=pytest.mark.long) for case in (
        (5, 2, 0, (5, 7)), (6, 1, 1, (4, 4)), (7, 2, 1, (16, 8))))])
def test_a_filtered_layer_is_the_convolution(taps, dilation, pooled, out_yx):
  keys = jax.random.split(jax.random.key(0), 4)
  reach = (taps - 1) * dilation
  maps = jax.random.normal(keys[0], (2, out_yx[0] + reach + pooled + 1,
                                     out_yx[1] + reach + 2, 32))
  weights = {'kernel': jax.random.normal(keys[1], (taps, taps, 32, 5)) / taps,
             'bias': jax.random.normal(keys[2], (5,))}
  direction = jax.random.normal(keys[3], (2, out_yx[0], out_yx[1] - 1, 5))

  def layer(w, m):
    return conv.filtered_layer(_sine, dilation, pooled, out_yx, w, m)

  def plain(w, m):
    m = jnp.max(jnp.stack([m[:, i:i + out_yx[0] + reach] for i in (0, pooled)]), 0)
    return _sine(w, conv.conv_lax(m[:, :, :out_yx[1] + reach], w['kernel'], dilation))

  np.testing.assert_allclose(jax.jit(layer)(weights, maps), plain(weights, maps),
                             atol=2e-4)
  found, expected = (jax.jit(jax.grad(lambda w, m, f=f: jnp.sum(direction * f(w, m)),
                                      (0, 1)))(weights, maps) for f in (layer, plain))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found,
               expected)


@pytest.mark.parametrize('cells', [2, 7])
@pytest.mark.parametrize('out_px', [1, 64, 100, 1024])
def test_planned_extents_chain(cells, out_px):
  window, *outs = dense.plan_extents(cells, out_px)
  assert window == dense.window_px(cells, out_px) and outs[-1] == out_px
  aligned, *whole = dense.plan_extents(cells, out_px, 4)
  step, have = 1, aligned
  for i, out in enumerate(whole):
    taps = cells if i == 8 else 3
    pooled = step // 2 if i % 2 == 0 else 0
    assert out % (4 * step) == 0 and have >= out + pooled + (taps - 1) * step
    have, step = out, step * (1 + i % 2)
  assert all(a >= b for a, b in zip(whole, outs, strict=True))
  assert aligned - window < 140


@pytest.mark.long
def test_a_voxel_has_the_same_bits_in_every_aligned_window():
  model = small_model(33, 3)
  params = random_params(model)
  sides = [model.dense_px(256 + 128), model.dense_px(256 + 64)]
  image = jax.random.normal(jax.random.key(3), (1, *sides, 3))
  apply = jax.jit(model.apply_dense, static_argnums=3)
  whole = apply(params, image, None, (384, 320))
  for y, x, height, width in [(64, 64, 256, 256), (128, 0, 64, 320)]:
    part = apply(params, image[:, y:y + model.dense_px(height),
                               x:x + model.dense_px(width)], None, (height, width))
    np.testing.assert_array_equal(part, whole[:, y:y + height, x:x + width])
