"""All methods that `config.model.name` can name, behind one record, `Method`."""
