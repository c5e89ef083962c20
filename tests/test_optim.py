import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.errors import InputError
from fibjax.training import optim


def test_sgd_follows_keras_when_the_rate_changes():
  gradients = np.array([1., -2., 0.5, 3.])
  rates = [0.1, 0.1, 0.01, 0.01]
  velocity, weight = 0., 5.
  optimizer = optim.make_optimizer('sgd', 0.9)
  params, state = jnp.float32(5.), optimizer.init(jnp.float32(5.))
  for gradient, rate in zip(gradients, rates, strict=True):
    velocity = 0.9 * velocity - rate * gradient
    weight += velocity
    params, state = optimizer.update(jnp.float32(gradient), state, params, rate)
    np.testing.assert_allclose(params, weight, rtol=1e-6)


def test_adam_first_step_is_the_rate_in_the_direction_of_the_sign():
  optimizer = optim.make_optimizer('adam', 0.9)
  params, _ = optimizer.update(jnp.asarray([3., -0.2]), optimizer.init(jnp.zeros(2)),
                               jnp.zeros(2), 0.01)
  np.testing.assert_allclose(params, [-0.01, 0.01], rtol=1e-4)


def test_published_schedule_falls_from_1e_2_to_1e_3_in_the_last_8_epochs():
  rates = [optim.learning_rate('steps', -2., 8, epoch, 40) for epoch in range(40)]
  np.testing.assert_allclose(rates[:8], 1e-2)
  np.testing.assert_allclose(rates[8:16], 10 ** -2.25)
  np.testing.assert_allclose(rates[32:], 1e-3)
  assert optim.learning_rate('steps', -2., 8, 7.99, 40) == pytest.approx(1e-2)


def test_cosine_schedule_ends():
  values = [optim.learning_rate('cosine', -3., 8, e, 10) for e in (0, 5, 10)]
  np.testing.assert_allclose(values, [1e-3, 5e-4, 0], atol=1e-12)


def test_unknown_names_are_refused():
  with pytest.raises(InputError, match='optimizer'):
    optim.make_optimizer('lion', 0.9)
  with pytest.raises(InputError, match='schedule'):
    optim.learning_rate('linear', -3., 8, 0, 10)


def test_global_norm():
  assert float(optim.global_norm({'a': jnp.asarray([3.]), 'b': jnp.asarray([4.])})) == 5


def test_cycles_start_again_at_the_full_rate():
  rates = [optim.learning_rate('cycles', -2., 8, epoch, 10, 3) for epoch in
           (0, 2, 3.999, 4, 6, 8)]  # cycles of ceil(10 / 3) = 4 epochs
  np.testing.assert_allclose(rates, [0.01, 0.005, 0, 0.01, 0.005, 0.01], atol=1e-8)
