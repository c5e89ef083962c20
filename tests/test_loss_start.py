"""How losses start: closed formulas on a network of one weight, and the real one."""
import jax.numpy as jnp
import numpy as np
import pytest

from fibjax.config import check_section
from fibjax.studies import loss_start
from fibjax.studies.loss_start import Batch
from fibjax.training import loop, loss_expression, sampling
from tests.helpers import small_model


class Offset:
  """A network with one weight, the logit of every voxel."""
  window_px = 1

  @staticmethod
  def apply_dense(params, images_byxc, dropout=None):
    del dropout
    return params['offset'] + 0 * images_byxc[..., 0]


def batch_of(solid, size=16):
  """One window with a given share of solid."""
  targets = np.zeros(size * size, np.float32)
  targets[:round(solid * targets.size)] = 1
  ones = np.ones((1, size, size), np.float32)
  return Batch(ones[..., None], targets.reshape(ones.shape), ones)


def examine(expression, solid):
  return loss_start.examine(loss_expression.make_loss(expression), Offset,
                            {'offset': jnp.float32(0)}, [batch_of(solid)])


@pytest.mark.parametrize('solid', [0.75, 0.25])
def test_cross_entropy_wants_the_share_of_solid_and_pulls_back(solid):
  found = examine('bce', solid)
  step = loss_start.COLLAPSED_LOGIT / 32
  nearest = 1 / (1 + np.exp(-step * np.array([-1, 0, 1]) - np.log(solid / (1 - solid))))
  assert nearest[0] < found['best_constant'] < nearest[2]
  assert found['gradient_norm'] == pytest.approx(0.25)  # |1/2 - y| of the mean
  assert found['common_share'] == pytest.approx(0.25 ** 2 / 0.25)
  far = 1 / (1 + np.exp(-loss_start.COLLAPSED_LOGIT))
  assert found['collapsed_gradient_norm'] == pytest.approx(far - 0.75, rel=1e-4)
  assert found['value'] == pytest.approx(np.log(2)) and found['gradient_sd'] == 0


@pytest.mark.parametrize('loss', ['dice', 'jaccard', 'jml', 'lovasz'])
@pytest.mark.parametrize('solid', [0.75, 0.25])
def test_losses_of_overlap_do_not_pull_back(loss, solid):
  found = examine(loss, solid)
  assert found['collapsed_gradient_norm'] < 0.01 * found['gradient_norm']


@pytest.mark.parametrize('loss', ['jaccard', 'jml'])
def test_the_constant_of_highest_overlap_is_more_extreme_than_the_share(loss):
  share, p = 0.75, np.linspace(0.001, 0.999, 999)
  miou = (share * p / (p + share - share * p)
          + (1 - share) * (1 - p) / (1 - p + 1 - share - (1 - share) * (1 - p))) / 2
  found = examine(loss, share)['best_constant']
  assert abs(found - p[np.argmax(miou)]) < 0.02 and found > 0.88
  assert examine(loss, 1 - share)['best_constant'] == pytest.approx(1 - found)


@pytest.mark.parametrize('recipe', ['fade(0.2, 0.6)*bce + ramp(0.2, 0.6)*jaccard',
                                    'bce + ramp(0.6, 1)*lovasz'])
def test_recipes_that_begin_with_cross_entropy_start_like_it(recipe):
  found, bce = (examine(loss, 0.7) for loss in (recipe, 'bce'))
  assert found.pop('solid_share') == bce.pop('solid_share')
  assert found == pytest.approx(bce)


def test_a_batch_of_one_phase_has_that_phase_as_best_constant():
  found = examine('jaccard', 1.)
  assert found['best_constant'] > 0.999 and found['common_share'] == pytest.approx(1)


@pytest.mark.long
def test_the_start_of_a_network_is_reported_for_each_loss():
  model = small_model()
  random, side = np.random.default_rng(0), 32 + 2 * model.before_px
  images = random.normal(size=(4, side, side, 1)).astype(np.float32)
  masks = np.kron(random.random((4, 4, 4)) < 0.6, np.ones((8, 8))).astype(np.uint8)
  train = sampling.put_regions(images, masks, False)
  settings = check_section('train', {'crop_px': 16, 'steps_per_epoch': 3,
                                     'val_windows': 1, 'mixed_batches': True})
  params = loop.initial_states(settings, model, [5], train, True)[0].params
  batches = loss_start.first_batches(settings, model, train, 0, 5, 8)
  assert len(batches) == 3
  bce, jaccard = (loss_start.examine(loss_expression.make_loss(name), model, params,
                                     batches) for name in ('bce', 'jaccard'))
  assert all(0 < share < 1 for share in bce['solid_share'])
  assert bce['gradient_norm'] > 0 and bce['gradient_sd'] > 0
  assert (jaccard['collapsed_gradient_norm'] / jaccard['gradient_norm']
          < 0.05 * bce['collapsed_gradient_norm'] / bce['gradient_norm'])
