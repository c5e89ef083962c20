import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibjax.system import geometry


@given(st.integers(1, 9), st.integers(-30, 30), st.integers(0, 40))
def test_mirror_indices_equal_numpy_reflect(size, start, length):
  values = np.arange(size)
  before, after = max(0, -start), max(0, start + length - size)
  padded = np.pad(values, (before, after), mode='reflect')
  expected = padded[start + before:start + before + length]
  np.testing.assert_array_equal(
      geometry.mirror_indices(start, start + length, size), expected)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 5)] * 3))
def test_tiles_cover_every_voxel_once(shape, tile):
  covered = np.zeros(shape, int)
  for start, stop in geometry.tile_boxes(shape, tile):
    covered[tuple(map(slice, start, stop))] += 1
    assert all(n <= t for n, t in zip(geometry.box_shape((start, stop)), tile,
                                      strict=True))
  assert (covered == 1).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 5)),
                min_size=3, max_size=3))
def test_a_box_is_cut_where_the_cells_of_a_grid_meet(axes):
  start, length, step = (tuple(values) for values in zip(*axes, strict=True))
  stop = tuple(a + n for a, n in zip(start, length, strict=True))
  covered = np.zeros(stop, int)
  for low, high in geometry.cut_at_grid(start, stop, step):
    covered[tuple(map(slice, low, high))] += 1
    assert all(a // n == (b - 1) // n
               for a, b, n in zip(low, high, step, strict=True))
  expected = np.zeros(stop, int)
  expected[tuple(map(slice, start, stop))] = 1
  np.testing.assert_array_equal(covered, expected)


def test_grow_adds_the_margin_on_both_sides():
  assert geometry.grow(((1, 2, 3), (4, 5, 6)), (1, 0, 2)) == ((0, 2, 1), (5, 5, 8))


def test_tile_boxes_refuses_axes_that_do_not_match():
  with pytest.raises(ValueError, match='shorter|longer'):
    list(geometry.tile_boxes((2, 2, 2), (1, 1)))
