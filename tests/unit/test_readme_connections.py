"""The connections that the README gives to be copied are ones that work."""

import json
import re

import pytest
from support import ROOT

from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.registry import OURS, provider_class

README = (ROOT / "README.md").read_text()
#: in blocks, and in the table of vendors of OpenAI's kind
WRITTEN = re.findall(r"```json\n(.*?)```", README, re.DOTALL) + re.findall(r"\| `(\{.*\})` \|$", README, re.MULTILINE)
BLOCKS = [json.loads(block) for block in WRITTEN if '"llmbatch"' in block]


def test_every_cloud_has_one():
    """Whoever comes with a cloud, or any other vendor, finds its connection."""
    named = {block["extra"]["provider"] for block in BLOCKS}
    assert named >= OURS.keys() - {"openai", "anthropic"}


@pytest.mark.parametrize("connection", BLOCKS, ids=lambda block: block["extra"]["provider"])
def test_a_connection_of_the_readme_is_understood(connection):
    """No option is unknown, and there is a way to prove who asks."""
    provider = provider_class(connection["extra"]["provider"])(connection.get("host"), connection["extra"])
    assert provider.options.unknown == []
    login = Login("llm_batch_default", connection.get("login", ""), connection.get("password", ""))
    assert provider.auth(login).owns(provider.url())
    place = provider.place("shard.jsonl", "file:///jobs/shard.jsonl")
    storage = connection["extra"].get("storage")
    assert (place is None) == (storage is None)
