"""The README's fenced blocks, and what is put around them so that they run here.

A block is run as it stands but for its places: ``s3://connection@bucket/key`` and ``file:///tmp/`` become directories
below the test's own, and the rows that it reads are put there first.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from support import ROOT

README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: columns that any block's rows may be asked for
ROWS = [
    {"review_id": f"r{n}", "id": n, "ticket": f"T-{n}", "product": "kettle", "text": f"Review {n}", "amount": 10 * n}
    for n in range(20)
]
STEPS = ("submit", "wait", "fetch")


class Block(NamedTuple):
    """:param name: heading and number below it, which stays the same when text moves."""

    name: str
    heading: str
    language: str
    text: str


def blocks() -> list[Block]:
    """All of them, in their order."""
    found: list[Block] = []
    for match in FENCED.finditer(README):
        # What looks like a heading inside of a block is a comment.
        before = FENCED.sub("", README[: match.start()])
        heading = re.findall(r"^#+ (.+)$", before, re.MULTILINE)[-1]
        number = sum(block.heading == heading for block in found) + 1
        found.append(Block(f"{heading.lower().replace(' ', '-')}-{number}", heading, match[1], match[2]))
    return found


def placed(text: str, home: Path) -> str:
    """A block with its places below a directory."""
    # In one go: the directory may itself lie below /tmp.
    return re.sub(r"s3://(?:\w+@)?(?=[a-z])|file:///tmp/", f"file://{home}/", text)


def give_rows(text: str, home: Path, ds: str) -> None:
    """Put rows where a block reads some: at every JSONL address in it, batch input lines where it uploads them."""
    for uri in re.findall(rf"file://({re.escape(str(home))}/[^\"]+\.jsonl)", text):
        path = Path(uri.replace("{{ ds }}", ds).replace("*", "rows"))
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [batch_line(row) for row in ROWS] if "upload_file" in text else ROWS
        path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def batch_line(row: dict[str, object]) -> dict[str, object]:
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": row["text"]}]}
    return {"custom_id": row["review_id"], "method": "POST", "url": "/v1/chat/completions", "body": body}


def parts(block: Block) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """What a whole DAG file of the README has before its DAG, and in it."""
    body = ast.parse(block.text).body
    at = next(n for n, statement in enumerate(body) if isinstance(statement, ast.With))
    dag = body[at]
    assert isinstance(dag, ast.With)
    return body[:at], dag.body


def names(text: str) -> tuple[set[str], set[str]]:
    """The names that a block reads, and those that it makes."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    stored = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    return {node.id for node in found if isinstance(node.ctx, ast.Load)}, stored


def dag_file(block: Block, whole: list[Block], dag_id: str) -> str:
    """A DAG file of a block: as it stands where it has a DAG and its imports, else with what *A DAG* has made before.

    :param whole: the two DAG files below *A DAG*.
    """
    if block in whole or "import DAG" in block.text:
        return block.text
    given, steps = parts(whole[0])[0] + parts(whole[1])[0], parts(whole[1])[1]
    before = "\n".join(map(ast.unparse, given))
    if re.search(r"^with DAG\(", block.text, re.MULTILINE):
        return f"{before}\n{block.text}"
    read, made = names(block.text)
    last = max((n for n, name in enumerate(STEPS, 1) if name in read - made), default=0)
    inside = [ast.unparse(step) for step in steps[:last]]
    if "task_id" not in block.text:
        # It makes a request: which is asked.
        block = block._replace(text=block.text + ASKED)
    lines = "\n".join([*inside, block.text]).splitlines()
    return "\n".join([before, f"with DAG({dag_id!r}, schedule=None):", *(f"    {line}" for line in lines)])


ASKED = """
LLMBatchOperator(task_id="ask", rows=rows, request=request, destination="file:///tmp/asked/{{ run_id }}")
"""


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block, word by word."""
    found: list[list[str]] = []
    waiting = ""
    for line in block.text.splitlines():
        waiting += line.removesuffix("\\") + ("\n" if line and not line.endswith("\\") else " ")
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:
            # Inside of a quotation.
            continue
        if words and not line.endswith("\\"):
            starts = [-1, *(n for n, word in enumerate(words) if word == "&&"), len(words)]
            found += [words[one + 1 : other] for one, other in pairwise(starts)]
            waiting = ""
    assert not waiting.strip(), f"{block.name} ends inside of a command"
    return found
