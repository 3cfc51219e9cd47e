"""The engine: one file per step of a row's journey."""
