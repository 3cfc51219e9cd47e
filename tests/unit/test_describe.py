"""What is made of the providers' classes is as they are."""

from support import ROOT

from airflow_llm_batch.providers import describe


def test_the_readme_has_the_tables_of_vendors_and_options():
    """``python -m airflow_llm_batch.providers.describe`` writes them."""
    readme = (ROOT / "README.md").read_text()
    assert describe.with_tables(readme) == readme
    assert describe.table() in readme
    assert describe.kin_table() in readme
    assert describe.option_table() in readme


def test_the_form_has_the_options_that_are_marked_for_it():
    """Likewise."""
    from airflow_llm_batch.connection_form import FIELDS

    assert describe.fields() == FIELDS
    assert FIELDS["provider"]["schema"]["enum"][0] == "openai"
    # What has no "null" among its types is required; what is one vendor's says whose.
    assert [name for name, field in FIELDS.items() if field["schema"]["type"] == "string"] == ["provider"]
    assert FIELDS["api_version"]["description"].startswith("azure: ")
    assert FIELDS["timeout"]["description"].startswith("Seconds of silence")
