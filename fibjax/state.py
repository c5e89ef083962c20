"""The state of a training: everything a resumed run needs besides its config."""
from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
  """One member's state; a pytree.

  No random key is kept: key(seed) folded with the step gives it, which makes resuming
  exact.

  Attributes:
    step: int32 [], updates done.
    params: weights.
    opt_state: what the optimiser keeps.
    alive: bool [], false from the first loss that is not finite; nothing changes then.
    best: weights of the epoch with the lowest validation BCE.
    average: mean of the weights at the ends of the last epochs (SWA, Izmailov 2018).
  """
  step: jax.Array
  params: Any
  opt_state: Any
  alive: jax.Array
  best: Any
  average: Any
