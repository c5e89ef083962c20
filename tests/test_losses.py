import jax
import jax.numpy as jnp
import numpy as np

from fibjax import losses

LOGITS = jnp.asarray([-2., 0.5, 3., 80., -90.])
LABELS = jnp.asarray([0, 1, 1, 0, 255], jnp.uint8)


def test_bce_equals_its_definition_and_is_stable():
  p = 1 / (1 + np.exp(-np.asarray(LOGITS[:3], float)))
  expected = -(np.log(1 - p[0]) + np.log(p[1]) + np.log(p[2])) / 3
  weights = jnp.asarray([1., 1., 1., 0., 0.])
  np.testing.assert_allclose(losses.bce(LOGITS, LABELS, weights), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.bce_terms(LOGITS, LABELS)[3], 80., rtol=1e-6)


def test_weights_count_and_zero_weights_give_exactly_zero_gradient():
  weights = jnp.asarray([2., 1., 0., 1., 0.])
  gradient = jax.grad(losses.bce)(LOGITS, LABELS, weights)
  assert gradient[2] == 0 and gradient[4] == 0
  p = 1 / (1 + np.exp(2))
  np.testing.assert_allclose(gradient[0], 2 * p / 4, rtol=1e-6)


def test_bce_is_invariant_to_padding_and_zero_without_weights():
  weights = jnp.asarray([1., 1., 1., 1., 0.])
  padded = losses.bce(jnp.pad(LOGITS, (0, 3)), jnp.pad(LABELS, (0, 3)),
                      jnp.pad(weights, (0, 3)))
  np.testing.assert_allclose(padded, losses.bce(LOGITS, LABELS, weights), rtol=1e-6)
  assert losses.bce(LOGITS, LABELS, jnp.zeros(5)) == 0


def test_penalty_is_the_sum_of_squares_of_kernels_only():
  params = {'a': {'kernel': jnp.asarray([[1., 2.]]), 'bias': jnp.asarray([9.])},
            'b': {'kernel': jnp.asarray([3.])}}
  assert losses.kernel_penalty(params) == 14
  gradient = jax.grad(losses.kernel_penalty)(params)
  np.testing.assert_array_equal(gradient['a']['kernel'], [[2., 4.]])
  np.testing.assert_array_equal(gradient['a']['bias'], [0.])
