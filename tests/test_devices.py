import jax
import numpy as np
import pytest

from fibjax.system.devices import (
  count_in_work,
  fetch_members,
  map_images,
  map_members,
  put_everywhere,
  put_members,
  put_shared,
  unzip,
)


def scale(factor, image):
  return factor * image


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('count', [0, 1, 2, 5])
def test_every_image_gets_its_result_in_order(devices, count, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:devices])
  images = [np.full((2, 3), i, np.float32) for i in range(count)]
  results = list(map_images(scale)(
      put_everywhere(np.float32(3)), iter(images)))
  assert len(results) == count
  for i, result in enumerate(results):
    np.testing.assert_array_equal(result, 3. * images[i])


def test_no_more_images_are_made_than_are_in_work(monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  made = []

  def images():
    for i in range(6):
      made.append(i)
      yield np.zeros(2, np.float32)

  for i, _ in enumerate(map_images(scale)(np.float32(1), images())):
    assert len(made) <= i + count_in_work()
  assert len(made) == 6


@pytest.mark.parametrize('devices, unrolled', [(1, True), (2, True), (2, False)])
@pytest.mark.parametrize('count', [1, 2, 5])
def test_members_get_their_own_and_what_is_shared(devices, unrolled, count,
                                                  monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:devices])
  states = [{'a': np.float32(k), 'b': np.full(3, k, np.float32)} for k in range(count)]
  each = [np.float32(10 * k) for k in range(count)]
  held = put_members(states)
  shared = put_shared(np.float32(100), count)

  def step(state, own, constant):
    return jax.tree.map(lambda x: x + own + constant, state), own

  run = map_members(step, count, donate=True, unroll=unrolled)
  for _ in range(2):
    held, report = unzip(run(held, put_members(each), shared))
  found = fetch_members(held, count)
  assert len(found) == count
  for k, state in enumerate(found):
    np.testing.assert_array_equal(state['b'], np.full(3, k + 20 * k + 200))
    assert state['a'] == k + 20 * k + 200
  assert [float(r) for r in fetch_members(report, count)] == each


def test_one_member_uses_one_device():
  assert isinstance(put_members([np.zeros(2)]), list)
  assert len(jax.local_devices()) == 2
