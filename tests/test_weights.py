"""The networks that fibjax comes with: small, described, useful without a label."""
import numpy as np
import pytest

import fibjax
from fibjax import models
from fibjax.config import base
from fibjax.methods import shared
from fibjax.metrics import confusion
from fibjax.simulation import films

NAMES = shared.shipped_names()
MOST_BYTES = 6_000_000


def test_there_is_one_for_the_network_of_most_configs():
  assert 'cnn_33x7' in NAMES
  assert shared.resolve_start(shared.SHIPPED, base().model) == 'cnn_33x7'


@pytest.mark.parametrize('name', NAMES)
def test_a_card_says_what_the_weights_are(name):
  model, folder = shared.read_model(name), shared.find_model(name)
  assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
  card = (folder / shared.CARD).read_text(encoding='utf-8')
  count = models.count_weights(model.params[0])
  for expected in (f'# {name}\n', f'{count:,}', 'random films', 'Apache-2.0', 'seed'):
    assert expected in card, expected
  assert model.prepare['scale'] == 'standard'
  for leaf in shared.flatten(model.params[0]).values():
    assert np.isfinite(leaf).all()


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('preset', ['HPC30', 'HPC45'])
def test_a_network_sees_pore_backs_that_no_threshold_can(name, preset):
  film = films.simulate_film(preset, (9, 128, 128), seed=77)
  score_zyx = fibjax.load(name).score(film.image_zyx)
  found = confusion.summarise(confusion.confusion(
      film.truth_zyx, (score_zyx > 0.5).astype(np.uint8)))['miou']
  best = confusion.best_global_threshold([film.image_zyx], [film.truth_zyx])['miou']
  assert found > best + 0.05
