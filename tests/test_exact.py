import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.models import conv, exact, exact_plan, filtering, patch_cnn
from fibjax.system import geometry

NARROW = (2, 3, 2, 3)


def make_network(cells, n_z, scale, dtype=np.float32):
  """The published network as a function of weights and patches, and weights."""
  module = patch_cnn.PatchCNN(cells, 'same')
  side = 16 * cells + 1
  shapes = jax.eval_shape(module.init, jax.random.key(0),
                          jnp.zeros((1, side, side, n_z)))['params']
  random = np.random.default_rng(cells)
  params = jax.tree.map(
      lambda leaf: jnp.asarray(random.normal(0, scale, leaf.shape), dtype), shapes)
  return jax.jit(lambda p, patches: module.apply({'params': p}, patches)), params


def narrow_network(monkeypatch, cells):
  """A network of few channels and two slices, float64; call with x64 enabled."""
  monkeypatch.setattr(patch_cnn, 'WIDTHS', NARROW)
  monkeypatch.setattr(patch_cnn, 'HIDDEN', (4, 3))
  return make_network(cells, 2, 0.4, np.float64)


def features(params, patch_yxc):
  """All maps of one patch by the literal network, {name: [y, x, c]}."""
  maps, found = patch_yxc[None], {}
  for block in range(1, 5):
    for part in 'ab':
      layer = params[f'conv{block}{part}']
      maps = jax.nn.elu(conv.conv_lax(maps, layer['kernel'], padding='SAME')
                        + layer['bias'][None, None, None])
      found[f'conv{block}{part}'] = np.asarray(maps[0])
    maps = conv.max_pool(maps)
    found[f'pool{block}'] = np.asarray(maps[0])
  return found


@pytest.mark.parametrize('cells', [2, 3, 7])
def test_affected_sets_are_what_a_wider_patch_changes(monkeypatch, cells):
  # A patch 48 px wider on each side has the same grid and its zeros far away.
  with jax.enable_x64(True):
    _, params = narrow_network(monkeypatch, cells)
    wide = jax.random.normal(jax.random.key(0), (16 * cells + 97,) * 2 + (2,))
    inner = features(params, wide[48:-48, 48:-48])
    outer = features(params, wide)
  for name, (size, affected) in exact_plan.affected_sets(cells).items():
    if name == 'image':
      continue
    first = 48 // (wide.shape[0] // outer[name].shape[0])
    free = outer[name][first:first + size, first:first + size]
    changed = (np.abs(inner[name][:size, :size] - free) > 1e-9).any(-1)
    predicted = np.isin(np.arange(size), list(affected))
    assert not changed[~predicted][:, ~predicted].any(), name
    # Pooling may hide a change in one place, hardly in all.
    if not predicted.all():
      np.testing.assert_array_equal(changed[:, ~predicted].any(1), predicted, name)
      np.testing.assert_array_equal(changed[~predicted].any(0), predicted, name)


@pytest.mark.parametrize('cells', [5, 6, 7])
def test_affected_sets_are_those_of_the_published_table(cells):
  first_and_last = {'conv1a': 1, 'pool1': 1, 'conv2a': 2, 'conv2b': 3, 'pool2': 2,
                    'conv3a': 3, 'conv3b': 4, 'pool3': 2, 'conv4a': 3, 'conv4b': 4,
                    'pool4': 2}
  sets = exact_plan.affected_sets(cells)
  for name, count in first_and_last.items():
    size, affected = sets[name]
    assert affected == {*range(count), *range(size - count, size)}, name
  assert sets['conv1b'] == (16 * cells, {0, 1, 16 * cells - 1})
  assert sets['pool4'][0] == cells


@pytest.mark.parametrize('cells', range(2, 8))
def test_runs_hold_all_affected_indices_and_read_each_index_once(cells):
  layers = exact_plan.make_layers(cells)
  sets = exact_plan.affected_sets(cells)
  for source, target in zip(layers, layers[1:], strict=False):
    if target.name in sets:
      size, affected = sets[target.name]
      held = {i for start, stop in target.runs for i in range(start, stop)}
      assert affected <= held <= set(range(size))
      assert target.kind != 'conv' or target.runs[0][1] <= 4
    for (start, stop), plan in zip(target.runs, exact_plan.plan_run(source, target),
                                   strict=True):
      read = []
      for kind, *rest in plan:
        if kind == 'run':
          read += range(source.runs[rest[0]][0] + rest[1],
                        source.runs[rest[0]][0] + rest[2])
        elif kind == 'shared':
          assert source.shared[0] <= rest[0] < source.shared[1]
          assert rest[0] not in sets[source.name][1]
          read += rest
        else:
          read += [None]
      first, last = {'conv': (start - 1, stop + 1), 'pool': (2 * start, 2 * stop),
                     'cells': (start, stop)}[target.kind]
      size = source.size
      assert read == [i if 0 <= i < size else None for i in range(first, last)]


# MMAC per voxel of one patch per voxel, the recursion and the context network (§9.3).
PUBLISHED = {2: (11.77, 7.14, 0.225), 3: (26.33, 9.68, 0.276), 4: (46.68, 11.59, 0.348),
             5: (72.82, 11.68, 0.440), 6: (104.75, 11.80, 0.552),
             7: (142.47, 11.93, 0.686)}


@pytest.mark.parametrize('cells', PUBLISHED)
def test_multiplications_are_the_published_ones(cells):
  naive, recursion, context = PUBLISHED[cells]
  count = {method: exact_plan.count_macs(cells, 3, method) / 1e6
           for method in ('naive', 'exact', 'context')}
  assert count['naive'] == pytest.approx(naive, abs=0.006)
  assert count['context'] == pytest.approx(context, abs=0.0006)
  # The published count has a shared value in every layer, also where none is left.
  channels, unused = 3, 0
  for name, (size, affected) in exact_plan.affected_sets(cells).items():
    if name.startswith('conv'):
      width = patch_cnn.WIDTHS[int(name[4]) - 1]
      if len(affected) == size:
        unused += ((size + 1) ** 2 - size ** 2) * 9 * channels * width
      channels = width
  assert (unused == 0) == (cells >= 5)
  assert count['exact'] + unused / 1e6 == pytest.approx(recursion, abs=0.006)


def test_a_context_network_multiplies_by_each_weight_once():
  _, params = make_network(7, 3, 0.1)
  kernels = sum(layer['kernel'].size for layer in params.values())
  assert kernels == exact_plan.count_macs(7, 3, 'context')


@pytest.mark.parametrize('outputs', [1, 2, 3, 4])
def test_minimal_filter_is_a_filter(outputs):
  A, G, B = filtering.minimal_filter(outputs)
  random = np.random.default_rng(0)
  values, taps = random.normal(size=outputs + 2), random.normal(size=3)
  assert A.shape[1] == outputs + 2
  np.testing.assert_allclose(A @ ((G @ taps) * (B @ values)),
                             np.correlate(values, taps), atol=1e-12)


@pytest.mark.parametrize(
    'cells', [2, 3, 4, *(pytest.param(n, marks=pytest.mark.long)
                         for n in (5, 6, 7, 11))])
def test_exact_equals_one_patch_per_voxel(monkeypatch, cells):
  # All voxels of a mirrored image, and of a second, random window; several tiles and
  # boxes, none of which divides the window.
  shape_yx, rim = (9, 11), 8 * cells
  with jax.enable_x64(True):
    apply, params = narrow_network(monkeypatch, cells)
    random = np.random.default_rng(0)
    image = random.normal(size=(*shape_yx, 2))
    rows, columns = (geometry.mirror_indices(-rim, s + rim, s) for s in shape_yx)
    mirrored = image[np.ix_(rows, columns)]
    window = jnp.asarray(np.stack([mirrored, random.normal(size=mirrored.shape)]))
    logits = jax.jit(lambda p, w: exact.apply_exact(
        p, w, cells, tile_px=8, box_yx=(3, 4)))(params, window)
    assert logits.shape == (2, *shape_yx) and logits.dtype == np.float64
    side = 2 * rim + 1
    for y in range(shape_yx[0]):
      patches = jnp.concatenate([window[:, y:y + side, x:x + side]
                                 for x in range(shape_yx[1])])
      expected = apply(params, patches).reshape(-1, 2).T
      np.testing.assert_allclose(logits[:, y], expected, atol=1e-10)


@pytest.mark.long
@pytest.mark.parametrize('cells', [2, 7])
def test_exact_equals_one_patch_per_voxel_in_single_precision(cells):
  apply, params = make_network(cells, 3, 0.08)
  rim = 16 * cells
  window = jax.random.normal(jax.random.key(5), (1, rim + 8, rim + 16, 3))
  logits = jax.jit(lambda p, w: exact.apply_exact(p, w, cells))(params, window)
  assert logits.shape == (1, 8, 16) and logits.dtype == np.float32
  chosen = [(0, 0), (7, 15), (3, 8), (6, 11), (5, 1)]
  patches = jnp.concatenate([window[:, y:y + rim + 1, x:x + rim + 1]
                             for y, x in chosen])
  expected = apply(params, patches)
  assert float(jnp.std(expected)) > 0.01
  np.testing.assert_allclose(logits[0][*np.transpose(chosen)], expected, atol=1e-4)


@pytest.mark.parametrize('out_yx', [(1, 1), (65, 3), (16, 130)])
def test_windows_of_any_size_give_one_logit_per_voxel(out_yx):
  _, params = make_network(2, 1, 0.05)
  window = jax.ShapeDtypeStruct((2, 32 + out_yx[0], 32 + out_yx[1], 1), np.float32)
  logits = jax.eval_shape(lambda p, w: exact.apply_exact(p, w, 2), params, window)
  assert logits.shape == (2, *out_yx)
