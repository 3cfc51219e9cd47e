"""Models compared: agreement and chance, answers that are the same in other words, what cannot be compared."""

import math
from collections import Counter
from datetime import UTC, datetime
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_llm_batch.data import Compare
from airflow_llm_batch.data.compare import check_compare, compare_of, fields_of, truths_of
from airflow_llm_batch.data.landed import Landed, canonical, is_right, landed, member, normal, said
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.comparing.agreement import HELD, MOST_CATEGORIES, Counted, Raters
from airflow_llm_batch.jobs.comparing.compare import as_number
from airflow_llm_batch.jobs.comparing.report import report
from airflow_llm_batch.jobs.comparing.table import ByRow
from airflow_llm_batch.jobs.directory.compared import Accuracy, Agreement, ComparedModel, Comparison

#: Cohen's textbook table of 50 grants: both yes 20, first alone 5, second alone 10, both no 15
GRANTS = [(1, 1)] * 20 + [(1, 2)] * 5 + [(2, 1)] * 10 + [(2, 2)] * 15
#: Fleiss' worked example (Wikipedia): 10 subjects, 14 raters, 5 categories
FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def rated(rows):
    raters = Raters(len(rows[0]))
    for row in rows:
        raters.add(row)
    return raters.agreement("label")


def test_kappa_is_the_textbooks():
    """Cohen's of two, Fleiss' of more, by examples that were worked out elsewhere."""
    assert (rated(GRANTS).rows, rated(GRANTS).share, rated(GRANTS).kappa) == (50, 0.7, pytest.approx(0.4))
    rows = [[place + 1 for place, times in enumerate(counts) for _ in range(times)] for counts in FLEISS]
    assert rated(rows).kappa == pytest.approx(0.20993, abs=1e-5)
    assert rated(rows).share == 0.1


def test_kappa_is_unknown_where_it_has_no_meaning():
    """No rows, one answer throughout, or answers that are no categories; the share stays."""
    assert rated([(0, 1)]) == Agreement(field="label", rows=0)
    assert rated([(1, 1)] * 9) == Agreement(field="label", rows=9, share=1.0)
    various = [(n, n) for n in range(1, MOST_CATEGORIES + 2)]
    assert rated(various[:-1]).kappa == pytest.approx(1.0)
    assert rated(various) == Agreement(field="label", rows=len(various), share=1.0)
    assert rated(various * 5).rows == 5 * len(various)


LABELS = st.integers(0, 3)


@given(
    st.integers(2, 4).flatmap(lambda models: st.lists(st.lists(LABELS, min_size=models, max_size=models), max_size=40))
)
def test_counts_are_those_of_all_rows_held_at_once(rows):
    """Streamed row by row, the same as looked at together; 0 is no answer."""
    models = len(rows[0]) if rows else 2
    counted = Counted(models, ["label"])
    differing = [counted.add(tuple((answer,) if answer else () for answer in row)) for row in rows]
    whole = [row for row in rows if all(row)]
    counted.finish()
    [agreement] = counted.agreements()
    assert agreement.rows == len(whole)
    assert agreement.share == (sum(len(set(row)) == 1 for row in whole) / len(whole) if whole else None)
    assert counted.answered == sum(len([a for a in row if a]) > 1 for row in rows)
    assert differing == [["label"] if len({a for a in row if a}) > 1 else [] for row in rows]
    assert counted.disagreed == sum(map(bool, differing))
    if agreement.kappa is not None:
        assert agreement.kappa <= 1 + 1e-9
        assert (agreement.kappa == pytest.approx(1)) is (agreement.share == 1)
    pairs = counted.pairs_of([f"m{n}" for n in range(models)])
    assert [pair.models for pair in pairs] == (
        [(f"m{a}", f"m{b}") for a, b in combinations(range(models), 2)] if models > 2 else []
    )
    for pair in pairs:
        one, other = (int(name[1:]) for name in pair.models)
        both = [(row[one], row[other]) for row in rows if row[one] and row[other]]
        [found] = pair.fields
        assert (found.rows, found.share) == (len(both), sum(a == b for a, b in both) / len(both) if both else None)
        assert found.kappa == pytest.approx(cohen(both)) if cohen(both) is not None else found.kappa is None


def test_more_kinds_of_rows_than_are_held_are_counted_all_the_same():
    """Taken in whenever there are many; none twice, none left out."""
    counted, rows = Counted(2, ["a", "b"]), 3 * HELD + 7
    for n in range(rows):
        assert counted.add(((n + 1, 1), (n + 1, 1 + n % 2))) == (["b"] if n % 2 else [])
    counted.finish()
    assert [(found.field, found.rows, found.share) for found in counted.agreements()] == [
        ("a", rows, 1.0), ("b", rows, (rows + 1) // 2 / rows),
    ]  # fmt: skip
    assert (counted.answered, counted.disagreed) == (rows, rows // 2)


def test_a_text_is_not_the_number_that_it_spells():
    """Python gives some of them the same hash."""
    values = ["1", 1, True, None, "", [1], ["1"], -1, -2, {"a": 1}, "null", 0]
    assert len({as_number(value) for value in values}) == len(values)
    assert as_number(1) == as_number(1.0)
    assert as_number('{"a":1}') == as_number({"a": 1.0})


def cohen(pairs):
    """As the formula has it, of everything at once."""
    if not pairs:
        return None
    observed = sum(a == b for a, b in pairs) / len(pairs)
    ones, others = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(ones[label] * others[label] for label in ones) / len(pairs) ** 2
    return None if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


SAME = [
    ("Paris", "paris."), ("  Paris\n", "PARIS"), ('"Paris"', "Paris"), ("**Paris**", "Paris"), ("a  b", "a\nb"),
    ("\uff30aris", "Paris"), ("Stra\u00dfe", "STRASSE"), ("\u00abParis\u00bb", "Paris"), ("", " "),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_are_the_same_in_other_spelling(one, other):
    """Case, width, blanks and what stands around an answer do not make another one."""
    assert normal(one) == normal(other)
    assert said(Landed(0, "succeeded", text=one)) == said(Landed(0, "succeeded", text=other))


def test_texts_that_differ_do():
    """A sign, a word, an accent."""
    assert len({normal(text) for text in ("-5", "5", "5 kg", "Paris", "Par\u00eds", "Paris, France")}) == 6


def test_calls_of_tools_are_compared_by_name_and_arguments():
    """Their ids are the vendors' own."""
    one, other = ([{"id": name, "name": "refund", "arguments": {"order": 1}}] for name in "ab")
    assert said(Landed(0, "succeeded", tool_calls=one)) == said(Landed(0, "succeeded", tool_calls=other))


def test_values_are_the_same_whatever_wrote_them():
    """1.0 is 1, members have no order, and Parquet's JSON text is what it says."""
    assert canonical({"a": 1.0, "b": [2]}) == canonical({"b": [2.0], "a": 1}) == canonical('{"b":[2],"a":1}')
    assert canonical("1") != canonical(1)
    assert canonical(True) != canonical(1)
    assert member('{"label": "x"}', "label") == member({"label": "x"}, "label") == "x"
    assert member(None, "label") is member({"label": None}, "label") is member([1], "label") is None


RIGHT = [
    ("Positive", "positive", True), (4, "4", True), (4.0, "4", True), (4, 4.0, True), (4, "four", False),
    ("4", 4, True), (True, "true", True), (True, 1, False), (["a"], ["a"], True), (["a"], ["b"], False),
    (None, "x", False), ("no", "yes", False), ({"a": 1}, {"a": 1.0}, True),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "truth", "right"), RIGHT)
def test_an_answer_is_right_by_what_it_means(answer, truth, right):
    """CSV columns are texts, and models write labels as they like."""
    assert is_right(answer, truth) is right


SCHEMA = {"type": "object", "properties": {"label": {}, "score": {}}}
ONE = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"label": {}}}}}


def test_fields_and_truths_are_those_of_the_schema():
    """All of them, or the chosen; a column alone where it is clear which field it is of."""
    assert fields_of(Compare(), SCHEMA) == ["label", "score"]
    assert fields_of(Compare(), None) == fields_of(Compare(), {"type": "array"}) == [""]
    assert fields_of(Compare(fields=["label", "label"]), SCHEMA) == ["label"]
    assert truths_of(Compare(truth="gold"), ONE) == {"label": "gold"}
    assert truths_of(Compare(truth="score"), SCHEMA) == {"score": "score"}
    assert truths_of(Compare(truth="gold"), None) == {"": "gold"}
    assert truths_of(Compare(truth={"label": "gold"}), SCHEMA) == {"label": "gold"}


REFUSED = [
    (Compare(truth="gold"), SCHEMA, ["gold"], r"say of which it is, truth=\{'label': 'gold'\}"),
    (Compare(truth={"label": "gold"}), SCHEMA, [], r"passthrough=\['gold'\]"),
    (Compare(truth={"lable": "gold"}), SCHEMA, ["gold"], "names lable, and the output has label, score"),
    (Compare(fields=["lable"]), SCHEMA, [], "names lable"),
    (Compare(fields=["label"]), None, [], "the output has no fields"),
    (Compare(disagreements=True), SCHEMA, ["answers"], "under another name"),
]


@pytest.mark.parametrize(("compare", "schema", "columns", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused(compare, schema, columns, message):
    """Before anything is sent, with the remedy."""
    with pytest.raises(ConfigurationError, match=message) as refused:
        check_compare(compare, schema, columns)
    assert "Nothing was sent" in str(refused.value)


@pytest.mark.parametrize("given", ["label", 1, {"truth": "x"}, Compare(fields="label")])
def test_compare_is_a_choice_or_what_to_compare(given):
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="give True, False, or Compare"):
        compare_of(given)
    assert compare_of(True) == Compare()
    assert compare_of(False) is compare_of(None) is None


def test_values_come_together_by_row():
    """Whatever order they came in; the later of two stays."""
    with ByRow() as table:
        table.add((row, 0, b"a%d" % row) for row in (3, 1, 2))
        table.add((row, 1, b"b%d" % row) for row in (2, 3, 9, 2))
        found = list(table.rows())
    assert found == [(1, {0: b"a1"}), (2, {0: b"a2", 1: b"b2"}), (3, {0: b"a3", 1: b"b3"}), (9, {1: b"b9"})]


def test_a_damaged_file_is_told_by_its_name(tmp_path):
    """And not skipped."""
    (tmp_path / "results-x.jsonl").write_text('{"row":0,"status":"succeeded"}\n{"row":')
    with pytest.raises(ConfigurationError, match=r"results-x\.jsonl is damaged"):
        list(landed(f"file://{tmp_path}/results-x.jsonl"))


def test_the_log_has_the_figures_in_columns():
    """Dollars that nobody knows are unknown, and not none."""

    def model(name, cost):
        return ComparedModel(
            name=name, model=name, conn_id="c", provider="openai", job="file:///x", rows=1000, cost_usd=cost,
            counts={"succeeded": 900, "invalid": 80, "errored": 20}, seconds=61.4,
            shares={"succeeded": 0.9, "invalid": 0.08, "errored": 0.02},
            accuracy=[Accuracy(field="label", column="gold", rows=900, right=810, share=0.9)],
        )  # fmt: skip

    fields = [Agreement(field="label", rows=880, share=0.75, kappa=0.6), Agreement(field="why", rows=880, share=0.0)]
    printed = report(
        Comparison(
            at=datetime.now(UTC), rows=1000, models=[model("gpt-5", 1.5), model("mine", None)], fields=fields,
            answered=880, disagreed=220, disagreements="file:///d.jsonl",
        )
    )  # fmt: skip
    assert printed.splitlines() == [
        "2 models compared over 1,000 rows:",
        "model  succeeded  invalid  refused  other     cost  seconds  right, by gold",
        "gpt-5      90.0%     8.0%     0.0%   2.0%    $1.50       61    90.0% of 900",
        "mine       90.0%     8.0%     0.0%   2.0%  unknown       61    90.0% of 900",
        "",
        "field  rows that all answered  the same  kappa",
        "label                     880     75.0%  0.600",
        "why                       880      0.0%",
        "",
        "They disagree about 220 rows (25.0%). These are in file:///d.jsonl",
    ]
