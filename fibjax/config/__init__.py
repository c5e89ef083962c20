"""Experiment settings: all defaults, and the rules that values must obey."""
from fibjax.config.settings import (
  base,
  from_dict,
  load,
  to_dict,
  unknown_variant,
  validate,
)

__all__ = ['base', 'from_dict', 'load', 'to_dict', 'unknown_variant', 'validate']
