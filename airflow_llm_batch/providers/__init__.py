"""Vendors' batch protocols as flows without I/O."""
