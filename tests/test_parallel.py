import jax
import numpy as np
import pytest

from fibjax import parallel


def scale(factor, image):
  return factor * image


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('count', [0, 1, 2, 5])
def test_every_image_gets_its_result_in_order(devices, count, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:devices])
  images = [np.full((2, 3), i, np.float32) for i in range(count)]
  results = list(parallel.map_images(scale)(
      parallel.put_everywhere(np.float32(3)), iter(images)))
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

  for i, _ in enumerate(parallel.map_images(scale)(np.float32(1), images())):
    assert len(made) <= i + parallel.count_in_work()
  assert len(made) == 6
