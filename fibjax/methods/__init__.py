"""Everything that `config.model.name` may be, behind one record, Method."""
