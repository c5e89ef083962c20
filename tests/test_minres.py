"""MINRES against a direct solver, on a small indefinite system."""
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.analysis import minres

N = 40


def system(smallest):
  """Symmetric K with eigenvalues of both signs, their moduli from smallest to 3, b."""
  random = np.random.default_rng(0)
  vectors = np.linalg.qr(random.normal(size=(N, N)))[0]
  values = random.uniform(smallest, 3, N) * np.where(np.arange(N) < 15, -1, 1)
  return (vectors * values) @ vectors.T, random.normal(size=N)


def solve(matrix, b, tolerance, max_iterations):
  diagonal = jnp.asarray(1 + np.abs(np.diag(matrix)) / 2, jnp.float32)
  matrix = jnp.asarray(matrix, jnp.float32)
  return minres.solve(lambda y: matrix @ y, lambda r: r / diagonal,
                      jnp.asarray(b, jnp.float32), tolerance, max_iterations)


def test_solution_is_that_of_a_direct_solver():
  matrix, b = system(0.5)
  found = solve(matrix, b, 1e-6, 200)
  assert np.asarray(found.y) == pytest.approx(np.linalg.solve(matrix, b), abs=2e-3)
  assert found.error <= 1e-6 and found.iterations < 50


@pytest.mark.parametrize('smallest', [0.5, 0.05])
def test_error_of_the_functional(smallest):
  matrix, b = system(smallest)
  exact = b @ np.linalg.solve(matrix, b)
  for tolerance in (1e-1, 1e-2, 1e-3):
    found = solve(matrix, b, tolerance, 400)
    y = np.asarray(found.y, float)
    value = y @ (2 * b - matrix @ y)
    assert found.value == pytest.approx(value, rel=1e-3)
    assert abs(value / exact - 1) < 2 * tolerance
    assert found.error <= tolerance


def test_residual_falls_and_iterations_end():
  matrix, b = system(0.05)
  scale = 1 + np.abs(np.diag(matrix)) / 2
  norms = []
  for count in (1, 2, 4, 8, 16):
    found = solve(matrix, b, 1e-6, count)
    assert found.iterations == count and found.error > 1e-6
    norms.append(((b - matrix @ np.asarray(found.y, float)) ** 2 / scale).sum())
  assert norms == sorted(norms, reverse=True)
