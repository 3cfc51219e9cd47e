"""What is made of the providers' classes is as they are."""

from support import ROOT

from airflow_llm_batch import reference
from airflow_llm_batch.operators import CompletionOperator
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


def test_the_readme_has_the_reference():
    """``python -m airflow_llm_batch.reference`` writes it: every argument of everything that takes some."""
    readme = (ROOT / "README.md").read_text()
    assert reference.with_reference(readme) == readme
    for made in (reference.argument_table(), reference.thing_table(), reference.config_table()):
        assert made in readme
    for taker in (*reference.TAKERS.values(), *reference.THINGS):
        for name in reference.parameters(taker):
            assert f"| `{name}` |" in readme, (taker, name)


def test_an_argument_is_told_by_whoever_shares_it():
    """Own words first, then the words of the operator that stands for all that take it, then the argument beside."""
    described = {one.name: one for one in reference.arguments(CompletionOperator)}
    assert described["models"].meaning.endswith("``strategy`` says for what.")
    assert described["max_cost"].meaning.startswith("dollars; a job that is estimated to cost more is refused")
    assert described["fail_on"].meaning.startswith("fails the task, after landing")
    assert described["tokens_per_minute"].meaning == "see ``requests_per_minute``"
    assert described["deadline"].default == "`timedelta(hours=48)`"
    assert described["rows"].rendered
    assert not described["keep_raw"].rendered
    assert "task_id" not in described
