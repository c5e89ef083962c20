"""The `fibjax` command."""
