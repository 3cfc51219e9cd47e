"""Checks beyond the schema: what is refused when it is given, and what each answer's row becomes."""

import functools
import json
import logging
import sys
from types import ModuleType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, computed_field, field_serializer, field_validator, model_validator

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.data.checks import rules_for, texts_of, verify
from airflow_llm_batch.data.importable import NotImportable, found, path_of
from airflow_llm_batch.data.output_schema import json_schema
from airflow_llm_batch.data.outputs import OutputCheck
from airflow_llm_batch.data.row_check import RowCheck, row_check
from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.models import Rules
from airflow_llm_batch.results import Result

log = logging.getLogger(__name__)


class Bill(BaseModel):
    total: int = Field(ge=0)
    parts: list[int]
    currency: str = "EUR"

    @field_validator("currency")
    @classmethod
    def upper(cls, value):
        return value.strip().upper()

    @model_validator(mode="after")
    def adds_up(self):
        if self.total != sum(self.parts):
            raise ValueError(f"total is {self.total}, the parts come to {sum(self.parts)}")
        if self.total == 13:
            raise KeyError("unlucky")
        return self


class Tags(BaseModel):
    tags: set[str]


class Square(BaseModel):
    side: int

    @computed_field
    @property
    def area(self) -> int:
        return self.side**2


class Written(BaseModel):
    at: str = Field(serialization_alias="when")


class Unwilling(BaseModel):
    at: str
    seen: set[str]

    @field_serializer("at")
    def at_all(self, at):
        raise RuntimeError("never")


def passes(output, row):
    return True


def says_nothing(output, row):
    return None


def fails(output, row):
    return False


def has_reason(output, row):
    return f"{output['total']} is not {row['amount']}" if output["total"] != row["amount"] else None


def raises(output, row):
    raise ValueError("no good")


def asserts(output, row):
    assert output["total"] > 100, "too little"


def crashes(output, row):
    return output["nothing"]


def returns_odd(output, row):
    return 3


def numpys(output, row):
    import numpy

    return numpy.bool_(output["total"] == 3)


def path(function):
    return f"{function.__module__}:{function.__qualname__}"


def answer(output, **more):
    return Result(status="succeeded", text=json.dumps(output), **more)


def judged(result, *checks, model=None, schema=None, key=b'"k"', columns=b"{}"):
    schema = schema or (json_schema(model) if model is not None else None)
    rules = Rules(output_class=path_of(model) if model is not None else None, checks=texts_of(list(checks)))
    check = row_check(schema, rules, log)
    assert check is not None
    check(result, msgspec.Raw(key), msgspec.Raw(columns))
    return result


GOOD = {"total": 3, "parts": [1, 2], "currency": " usd "}
VERDICTS = [
    (passes, "succeeded", None, None),
    (says_nothing, "succeeded", None, None),
    (numpys, "succeeded", None, None),
    (fails, "invalid", "check_failed", "fails does not hold."),
    (has_reason, "invalid", "check_failed", "has_reason: 3 is not 4"),
    (raises, "invalid", "check_failed", "raises: no good"),
    (asserts, "invalid", "check_failed", "asserts: too little"),
    (crashes, "invalid", "check_crashed", "crashes crashed: KeyError: 'nothing'"),
    (returns_odd, "invalid", "check_crashed", "it has returned 3"),
    ("output.total == 3", "succeeded", None, None),
    ("output.total == row.amount", "invalid", "check_failed", "output.total == row.amount does not hold."),
    ("row.key == 'k' and row['amount'] == 4", "succeeded", None, None),
    ("output.parts|length == 2 and 'total' in row.text", "succeeded", None, None),
    ("output.gone > 3", "invalid", "check_crashed", "UndefinedError"),
    ("output.gone is not defined or output.gone > 3", "succeeded", None, None),
    ("output.gone|default(4) > 3", "succeeded", None, None),
    ("output.__class__", "invalid", "check_crashed", "SecurityError"),
    ("output.total / 0 > 1", "invalid", "check_crashed", "ZeroDivisionError"),
]


@pytest.mark.parametrize(("check", "status", "code", "reason"), VERDICTS)
def test_a_check_decides_the_rows_status(check, status, code, reason):
    """Good, bad with a reason, and a crash, which is the row's and nobody else's; an invalid row has no output."""
    result = judged(answer(GOOD), check, schema={"type": "object"}, columns=b'{"amount":4}')
    assert (result.status, result.error_code) == (status, code)
    assert reason is None or reason in result.error_message
    assert result.output == (GOOD if status == "succeeded" else None)


class Shouting(BaseModel):
    """Written by a method of its own."""

    word: str

    def model_dump(self, **how):
        return {"word": super().model_dump(**how)["word"].upper()}


class Animal(BaseModel):
    """Read as a kind of itself, which is written otherwise."""

    name: str

    @model_validator(mode="wrap")
    @classmethod
    def kind(cls, value, handler):
        made = handler(value)
        return Cat(name=made.name) if cls is Animal and made.name == "cat" else made


class Cat(Animal):
    @field_serializer("name")
    def shouted(self, name):
        return name.upper()


class Login(BaseModel):
    password: SecretStr


class Found(BaseModel):
    logins: list[Login]


CLASSES = [
    (Shouting, {"word": "a"}, {"word": "A"}, None, None),
    (Animal, {"name": "cat"}, {"name": "CAT"}, None, None),
    (Animal, {"name": "dog"}, {"name": "dog"}, None, None),
    (Bill, GOOD, {"total": 3, "parts": [1, 2], "currency": "USD"}, None, None),
    (Bill, {"total": 3, "parts": [3]}, {"total": 3, "parts": [3], "currency": "EUR"}, None, None),
    (Bill, {"total": 4, "parts": [3]}, None, "validation_failed", "no valid Bill: total is 4, the parts come to 3"),
    (Bill, {"total": 13, "parts": [13]}, None, "check_crashed", "Validating the answer as Bill crashed: KeyError"),
    (Bill, {"total": -1, "parts": [-1]}, None, "schema_mismatch", "does not fit the schema at ['total']"),
    (Tags, {"tags": ["b", "a", "b"]}, {"tags": ["a", "b"]}, None, None),
    # Written with more than was asked for: what does not count is dropped, and the answer is the schema's.
    (Square, {"side": 3}, {"side": 3}, None, None),
    (Written, {"at": "now"}, {"at": "now"}, None, None),
    (Unwilling, {"at": "now", "seen": []}, {"at": "now", "seen": []}, None, None),
    # Written as stars by its class.
    (Found, {"logins": [{"password": "s3"}]}, {"logins": [{"password": "s3"}]}, None, None),
]


@pytest.mark.parametrize(("model", "said", "lands", "code", "reason"), CLASSES)
def test_an_answer_is_validated_as_its_class(model, said, lands, code, reason):
    """Validators of fields and of the whole run; what they make of it lands, where it still fits the schema."""
    result = judged(answer(said), model=model)
    assert (result.output, result.error_code) == (lands, code)
    assert result.status == ("succeeded" if code is None else "invalid")
    assert reason is None or reason in result.error_message
    assert json.loads(result.text) == said


def test_checks_come_after_the_class_and_see_what_lands():
    """Defaults and coerced values are there for them."""
    said = {"total": 3, "parts": [3]}
    assert judged(answer(said), "output.currency == 'EUR'", model=Bill).status == "succeeded"
    assert judged(answer(said), "output.currency == 'USD'", model=Bill).error_code == "check_failed"


def test_only_answers_that_are_good_so_far_are_checked():
    """A refused, errored or truncated row keeps its status and reason; a tool call has no output, and is checked."""
    for status in ("errored", "truncated", "refused", "expired", "missing"):
        result = judged(Result(status=status, error_code="why"), fails)
        assert (result.status, result.error_code) == (status, "why")
    called = Result(status="succeeded", tool_calls=[{"name": "f"}])
    assert judged(called, "row.tool_calls[0].name == 'f'", model=Bill).status == "succeeded"
    assert judged(called, fails, model=Bill).status == "invalid"


def test_a_job_without_rules_costs_what_it_did():
    """Its schema alone is looked at, and nothing at all of free text."""
    assert row_check(None, Rules(), log) is None
    assert type(row_check({"type": "object"}, Rules(), log)) is OutputCheck


def test_a_class_that_is_not_there_leaves_the_schema_and_is_told_once(caplog):
    """The rows are held to the schema and the checks; the landing says that it is short of the class."""
    schema, rules = json_schema(Bill), Rules(output_class="no_such_module:Bill", checks=("output.total < 9",))
    check = RowCheck(schema, rules, log)
    results = [answer({"total": 4, "parts": [3]}), answer({"total": 9, "parts": []}), answer({"total": "x"})]
    for result in results:
        check(result, msgspec.Raw(b"0"), msgspec.Raw(b"{}"))
    assert [result.error_code for result in results] == [None, "check_failed", "schema_mismatch"]
    assert check.is_short
    assert [record.getMessage().count("no_such_module:Bill") for record in caplog.records] == [1]


def test_a_check_that_is_not_there_lands_nothing():
    """Nothing unchecked is called succeeded."""
    with pytest.raises(NotImportable, match="no_such_module:check cannot be imported here"):
        RowCheck(None, Rules(checks=("no_such_module:check",)), log)


def inner():
    def local(output, row):
        return True

    return local


class Holder:
    def method(self, output, row):
        return True

    @staticmethod
    def static(output, row):
        return True


WRONG = [
    (lambda output, row: True, NotImportable, "cannot be imported by name"),
    (inner(), NotImportable, "cannot be imported by name"),
    (functools.partial(passes, None), NotImportable, "cannot be imported by name"),
    (Holder().method, NotImportable, "something else"),
    (Bill, ConfigurationError, "give a function"),
    (3, ConfigurationError, "give a function"),
    ("output.total >", InputError, "is no expression"),
    ("", InputError, "is no expression"),
    ("output }} {{ output", InputError, "is no expression"),
    ("{% if output %}", InputError, "is no expression"),
    ("total > 3", InputError, "names total"),
]


@pytest.mark.parametrize(("check", "error", "message"), WRONG)
def test_what_cannot_be_a_check_is_refused_as_it_is_given(check, error, message):
    """A lambda, a local function, an object; a text that is no condition. Nothing was sent by then."""
    with pytest.raises(error, match=message) as refused:
        texts_of([check])
    assert "Nothing was sent" in str(refused.value)


@pytest.mark.parametrize("checks", ["output.total > 3", {"a": 1}, 3])
def test_checks_are_a_list(checks):
    """A text alone would be taken for a list of letters."""
    with pytest.raises(ConfigurationError, match="give a list"):
        texts_of(checks)


def test_checks_are_kept_as_texts():
    """Functions by their paths, which may be given as they are; expressions as they were written."""
    given = [passes, Holder.static, path(fails), "output.total > 3"]
    assert texts_of(given) == (path(passes), path(Holder.static), path(fails), "output.total > 3")
    assert texts_of(None) is None
    assert found(path(Holder.static)) is Holder.static


UNREADABLE = [
    ("output.totl > 3", "reads output.totl.*has currency, parts, total"),
    ("output['totl'] > 3", "reads output.totl"),
    ("row.amont > 3", r"reads row.amont.*Pass the column through"),
    ("no_such_module:check", "cannot be imported here"),
    (f"{__name__}:GOOD", "is no function"),
]


@pytest.mark.parametrize(("check", "message"), UNREADABLE)
def test_checks_that_no_row_could_pass_are_refused(check, message):
    """A field that the schema does not have, a column that is not passed through, a function that is not there."""
    with pytest.raises((ConfigurationError, InputError), match=message):
        verify([check], ["amount"], json_schema(Bill))


def test_what_may_be_there_is_not_refused():
    """Tested for before it is read, in an open schema, under a name that is a method of mappings."""
    verify(["output.gone is defined and row.gone|default(1)", "row.items == row.key"], ["items"], json_schema(Bill))
    verify(["output.gone > 3"], [], {"type": "object", "properties": {"total": {}}})
    verify(["output.gone > 3"], [], None)
    with pytest.raises(InputError, match=r"without a schema there is no output"):
        verify(["output.gone > 3"], [], None, free=True)


def test_rules_of_a_request():
    """The class where it can be found again, and the checks."""

    class Local(BaseModel):
        label: str

    def rules(output, checks=()):
        return rules_for(ChatRequest("m", user="{text}", output=output), ["amount"], checks)

    assert rules(Bill, ["output.total > 3"]) == Rules(output_class=path(Bill), checks=("output.total > 3",))
    assert rules(Local) == rules(json_schema(Bill)) == rules(None) == Rules()


def test_a_dag_files_class_is_found_wherever_the_file_lies(monkeypatch):
    """Airflow names the module of a DAG file by its place, which differs between machines and bundle versions."""

    def module(place, stem="nightly"):
        made = ModuleType(f"unusual_prefix_{place * 40}_{stem}")
        made.Label = type("Label", (BaseModel,), {"__module__": made.__name__, "__qualname__": "Label"})
        return made

    here, there, other = module("a"), module("b"), module("c", "weekly")
    monkeypatch.setitem(sys.modules, there.__name__, there)
    monkeypatch.setitem(sys.modules, other.__name__, other)
    assert found(f"{here.__name__}:Label") is there.Label
    monkeypatch.setitem(sys.modules, here.__name__, here)
    assert found(path_of(here.Label)) is here.Label
    # Read once more in the same process, as Airflow does.
    again = module("a")
    monkeypatch.setitem(sys.modules, here.__name__, again)
    assert found(path_of(here.Label)) is again.Label
    monkeypatch.delitem(sys.modules, here.__name__)
    monkeypatch.delitem(sys.modules, there.__name__)
    with pytest.raises(NotImportable, match=r"nightly\.py is not loaded"):
        found(f"{here.__name__}:Label")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ANY = [passes, fails, raises, crashes, asserts, has_reason, "output.total == 3", "row.amount > 3", "output"]


@given(
    JSON | st.fixed_dictionaries({"total": st.integers(-1, 14), "parts": st.lists(st.integers(0, 14), max_size=2)}),
    st.lists(st.sampled_from(ANY), max_size=3),
    st.booleans(),
)
def test_whatever_is_answered_the_row_gets_a_status_and_a_reason(said, checks, with_class):
    """No answer and no check stops a landing; succeeded is only what every one of them has let pass."""
    schema = json_schema(Bill) if with_class else {"type": "object"}
    rules = Rules(output_class=path_of(Bill) if with_class else None, checks=texts_of(checks))
    check = row_check(schema, rules, log)
    result = answer(said)
    check(result, msgspec.Raw(b"1"), msgspec.Raw(b'{"amount":4}'))
    assert result.status in ("succeeded", "invalid")
    good = isinstance(said, dict) and OutputCheck(schema).is_valid(said)
    if with_class and good:
        good = said["total"] == sum(said["parts"]) != 13
    if good and checks:
        total, amount = said.get("total"), 4
        holds = {passes: True, "output.total == 3": total == 3, "row.amount > 3": True, "output": bool(said)}
        holds |= {has_reason: total == amount, asserts: isinstance(total, int | float) and total > 100}
        good = all(holds.get(check, False) for check in checks)
    assert (result.status == "succeeded") is good
    assert (result.error_code is None) is (result.error_message is None) is good
    assert (result.output is None) is not good
