"""The pages over a storage of their own."""

from support.pages import dags, site, storage  # noqa: F401
