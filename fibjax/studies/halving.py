"""What successive halving would have found: replayed on a sweep without it.

All members of a sweep were trained to their last epoch, so their validation curves tell
which of them halving would have stopped (Jamieson & Talwalkar 2016), or its
asynchronous form, which waits for nobody (Li et al. 2020). One sweep answers for any
rungs: it is divided into repetitions of as many random draws as a search would have.
The share of epochs is the share of the compute, as members of a size cost the same.
"""
import numpy as np

from fibjax.studies.sweep_members import find_members
from fibjax.studies.sweep_plan import choices_of
from fibjax.system import files
from fibjax.system.run_folder import RunFolder

_HALF = 2


def synchronous(curves_me: np.ndarray, rungs: tuple[int, ...]) -> np.ndarray:
  """Epochs that each member gets when the worse half stops at every rung, int [m].

  Args:
    curves_me: [m, epochs] validation cross-entropy after each epoch.
    rungs: epochs after which the members with the higher best value so far stop, half
      of them or less, as with config.sweep.halving.
  """
  members, epochs = curves_me.shape
  spent_m, active = np.full(members, epochs), list(range(members))
  for rung in rungs:
    ranked = sorted(active, key=lambda k: curves_me[k, :rung].min())
    keep = -(-len(ranked) // _HALF)
    spent_m[ranked[keep:]] = rung
    active = sorted(ranked[:keep])
  return spent_m


def asynchronous(curves_me: np.ndarray, rungs: tuple[int, ...]) -> np.ndarray:
  """Epochs that each member gets when one worker decides without waiting, int [m].

  Whenever the worker is free, it continues the best member in the better half of those
  that have reached a rung so far, the highest rung first; else it begins the next one.

  Args:
    curves_me, rungs: as for `synchronous`; members begin in their order.
  """
  members, epochs = curves_me.shape
  stops = (*rungs, epochs)
  reached: list[list[int]] = [[] for _ in stops]
  spent_m, begun = np.zeros(members, int), 0

  def promotable(level):
    ranked = sorted(reached[level], key=lambda k: curves_me[k, :stops[level]].min())
    return [k for k in ranked[:len(ranked) // _HALF] if k not in reached[level + 1]]
  while True:
    level = next((level for level in reversed(range(len(rungs))) if promotable(level)),
                 None)
    if level is not None:
      member, target = promotable(level)[0], level + 1
    elif begun < members:
      member, target = begun, 0
      begun += 1
    else:
      return spent_m
    reached[target].append(member)
    spent_m[member] = stops[target]


def outcome(curves_me: np.ndarray, spent_m: np.ndarray) -> dict:
  """What a search found that trained each member for so many epochs.

  Returns:
    JSON-able: found and best, the lowest validation cross-entropy of the search, and of
    all members trained to the end; regret, their difference; rank of the member found
    among all, 1 for the best; share of the epochs that the search took.
  """
  best_m = curves_me.min(1)
  found_m = np.array([curve_e[:spent].min() if spent else np.inf
                      for curve_e, spent in zip(curves_me, spent_m, strict=True)])
  member = int(np.argmin(found_m))
  return {'found': float(found_m[member]), 'best': float(best_m.min()),
          'regret': float(found_m[member] - best_m.min()),
          'rank': int((best_m < best_m[member]).sum()) + 1,
          'share': float(spent_m.sum() / curves_me.size)}


def replay(config, workdir: RunFolder) -> None:
  """Writes halving.json: for each size and loss, form and repetition an `outcome`.

  Nothing without config.sweep.replay, the rungs. Repetitions are
  config.sweep.replay_draws members each, in the order of their numbers; members that
  diverged count as the worst, and a rest of fewer members is left out.
  """
  rungs, draws, rows = config.sweep.replay, config.sweep.replay_draws, []
  if not rungs:
    return
  for choice in choices_of(config):
    found = {row['member']: [epoch['val_bce'] for epoch in row['record']['rows']]
             for row in find_members(config, workdir.sweep)
             if row['unit'].choice == choice}
    curves_me = np.full((config.sweep.members, config.train.epochs), np.inf)
    for number, curve in found.items():
      curves_me[number, :len(curve)] = curve
    for k in range(config.sweep.members // draws):
      part_me = curves_me[k * draws:(k + 1) * draws]
      if not np.isfinite(part_me).any():
        continue
      for name, form in (('synchronous', synchronous), ('asynchronous', asynchronous)):
        rows.append({**choice._asdict(), 'form': name, 'repetition': k, 'draws': draws,
                     'rungs': list(rungs), **outcome(part_me, form(part_me, rungs))})
  files.write_json(workdir.sweep.halving, rows)
