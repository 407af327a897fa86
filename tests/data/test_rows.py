"""From raw rows to problems: columns, answers, solutions, and the reason for every row that cannot be used."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.answers import RowError, as_text, response_of, tidy
from pipeline.data.rows import parse, unique_ids
from pipeline.data.sources import RawRow
from pipeline.settings import Columns
from pipeline.verify import grade
from pipeline.verify.reading.golds import alternatives

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(row, needs="answer", **columns):
    return parse(RawRow("f.jsonl", 3, row), "f", Columns(**columns), needs)


@pytest.mark.parametrize(
    ("given", "bare"),
    [
        ("72", "72"),
        (72, "72"),
        (72.0, "72"),
        (0.5, "0.5"),
        (Decimal("1.50"), "1.50"),
        (["72"], "72"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("$\\boxed{7}$", "7"),
        ("\\boxed 2", "2"),
        ("The answer is \\boxed{5}.", "5"),
        ("$x^2$", "x^2"),
        ("She sold 48+24=<<48+24=72>>72.\n#### 72", "72"),
        ("#### 1,080", "1,080"),
        ("\u00a0 12\u200b ", "12"),
        ('["7"]', "7"),
        ("['7']", "7"),
        ('["\\\\frac{1}{2}"]', "\\frac{1}{2}"),
        ('["\\frac{1}{2}"]', "\\frac{1}{2}"),
        ("[1, 2]", "[1, 2]"),
        ('["7", "7"]', "7"),
        (["7", None], "7"),
        ("\x0crac{1}{2}", "\\frac{1}{2}"),
        ("2\times3", "2\\times3"),
    ],
)
def test_answers_become_bare_text(given, bare):
    assert read({"problem": "p", "answer": given}).answer == bare


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "1"}, "no problem"),
        ({"problem": "", "answer": "1"}, "empty problem"),
        ({"problem": None, "answer": "1"}, "empty problem"),
        ({"problem": 5, "answer": "1"}, "wrong type"),
        ({"problem": "p"}, "no answer"),
        ({"problem": "p", "answer": ""}, "empty answer"),
        ({"problem": "p", "answer": None}, "empty answer"),
        ({"problem": "p", "answer": float("nan")}, "empty answer"),
        ({"problem": "p", "answer": "\\boxed{}"}, "empty answer"),
        ({"problem": "p", "answer": "", "solution": "so \\boxed{} primes"}, "empty answer"),
        ({"problem": "p", "answer": True}, "wrong type"),
        ({"problem": "p", "answer": {"value": 1}}, "wrong type"),
        ({"problem": "p", "answer": ["1", "2"]}, "several values"),
        ({"problem": "p", "answer": '["1", "2"]'}, "several values"),
        ({"problem": "p", "answer": "proof"}, "placeholder answer"),
        ({"problem": "p", "answer": "None"}, "placeholder answer"),
        ({"problem": "p", "answer": "nan"}, "placeholder answer"),
        ({"problem": "p", "answer": "\\boxed{N/A}"}, "placeholder answer"),
        ({"problem": "p", "answer": '["None"]'}, "placeholder answer"),
        ({"problem": "p", "answer": "\\text{proof}"}, "unreadable answer"),
        ({"problem": "p", "answer": "...", "solution": "It is clear."}, "placeholder answer"),
        ({"problem": "<|im_start|>user\np<|im_end|>", "answer": "1"}, "rendered prompt"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": 1}, "multiple choice"),
        ({"question": "Which?", "options": ["A) 3", "B) 4"], "answer": "B"}, "multiple choice"),
        (
            {"messages": [{"role": "user", "content": "p"}, {"role": "user", "content": "q"}], "answer": "1"},
            "not one user message",
        ),
        ({"messages": [{"role": "system", "content": "p"}], "answer": "1"}, "not one user message"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"}, "wrong type"),
        ({"problem": "p", "answer": "9" * 5000}, "answer too long"),
        ([1, 2], "not an object"),
        ("text", "not an object"),
    ],
)
def test_unusable_rows_say_why(row, reason):
    with pytest.raises(RowError) as caught:
        read(row)
    assert caught.value.reason == reason


@given(JSON)
def test_any_row_gives_a_problem_or_a_row_error(row):
    for value in (row, {"problem": row, "answer": row}, {"problem": "p", "answer": row, "solution": row}):
        try:
            found = read(value)
        except RowError:
            continue
        assert found.problem
        assert found.answer


def test_a_missing_answer_is_taken_from_the_solution():
    for solution in ("2+2 = \\boxed{4}.", "2+2 is <<2+2=4>>4\n#### 4"):
        found = read({"problem": "p", "solution": solution})
        assert (found.answer, found.derived) == ("4", True)
    with pytest.raises(
        RowError, match=r"looked for the columns answer, final_answer, .*; the row has problem, solution"
    ):
        read({"problem": "p", "solution": "It is 4."})  # prose is not guessed at


def test_raw_gsm8k_rows_give_their_solution_too():
    found = read({"question": "How many?", "answer": "He has <<1+1=2>>2.\n#### 2"})
    assert (found.problem, found.answer) == ("How many?", "2")
    assert response_of(found.solution, found.answer) == "He has 2.\n\nThe final answer is $\\boxed{2}$."


SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def test_a_chat_gives_the_users_message_alone():
    user = {"role": "user", "content": "What is 1+1?"}
    for row in (
        {"prompt": [SYSTEM, user], "reward_model": {"ground_truth": "2"}},
        {"messages": [SYSTEM, user], "answer": "2"},
        {"conversations": [{"from": "human", "value": "What is 1+1?"}], "answer": "2"},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "What is 1+1?"}]}], "label": "2"},
        {"problem": [{"type": "text", "text": "What is 1+1?"}], "answer": "2"},
        {"prompt": '[{"role": "user", "content": "What is 1+1?"}]', "label": 2},
        [{"from": "human", "value": "What is 1+1?"}, {"from": "assistant", "ground_truth": {"value": "2"}}],
    ):
        found = read(row)
        assert (found.problem, found.answer) == ("What is 1+1?", "2"), row


def test_a_chats_reply_is_the_solution():
    found = read(
        {"messages": [SYSTEM, {"role": "user", "content": "p"}, {"role": "assistant", "content": "so \\boxed{3}"}]}
    )
    assert (found.problem, found.answer, found.solution) == ("p", "3", "so \\boxed{3}")


def test_a_path_to_a_system_message_is_refused():
    with pytest.raises(RowError, match=r"prompt\.0\.content is the system message; name the whole list: prompt"):
        read({"prompt": [SYSTEM, {"role": "user", "content": "p"}], "answer": "1"}, problem="prompt.0.content")


def test_columns_are_found_without_regard_to_case_and_joined_by_plus():
    found = read({"ID": 3, "Problem": "p", "Final Answer": "1"})
    assert (found.id, found.problem, found.answer) == ("3", "p", "1")
    assert read({"Body": "Two and two.", "Question": "How many?", "Answer": "4.0"}).problem == "Two and two.\nHow many?"
    assert read({"a": "x", "b": "y", "answer": "1"}, problem="a+b").problem == "x\ny"


def test_an_empty_column_gives_way_to_the_next():
    assert read({"problem": "p", "answer": None, "final_answer": ["2"]}).answer == "2"


def test_options_that_the_problem_shows_are_fine():
    assert read({"question": "Which? (A) red (B) blue", "options": ["red", "blue"], "answer": "B"}).answer == "B"


def test_columns_by_alternatives_and_by_path():
    row = {"prompt": [{"role": "user", "content": "p"}], "reward_model": {"ground_truth": 34}, "x.y": "s"}
    found = read(row, problem="question,prompt.0.content", answer="reward_model.ground_truth", solution="x.y")
    assert (found.problem, found.answer, found.solution) == ("p", "34", "s")


@pytest.mark.parametrize(
    ("given", "golds"),
    [
        (["6", "six"], ["6", "six"]),
        ('["\\\\frac12", "0.5"]', ["\\frac12", "0.5"]),
        ([r"\boxed{7}", "#### 8", None, 7], ["7", "8"]),
        (["é", "e"], ["é", "e"]),
    ],
)
def test_several_answers_are_kept_if_the_user_says_so(given, golds):
    found = parse(RawRow("f.jsonl", 3, {"problem": "p", "answer": given}), "f", Columns(), keep_several=True)
    assert alternatives(found.answer) == golds
    assert grade(rf"\boxed{{{golds[1]}}}", found.answer).correct
    assert response_of(rf"so it is \boxed{{{golds[1]}}}", found.answer) is not None
    assert response_of("so it is.", found.answer) is None  # which of them?


def test_a_broken_answer_among_several_is_named():
    for answer, reason in (
        (["1", "proof"], "placeholder answer"),
        (["1", True], "wrong type"),
        (["1", ["2", "3"]], "several values"),
    ):
        with pytest.raises(RowError, match=reason):
            parse(RawRow("f.jsonl", 3, {"problem": "p", "answer": answer}), "f", Columns(), keep_several=True)
    one = parse(RawRow("f.jsonl", 3, {"problem": "p", "answer": [1, "1", ""]}), "f", Columns(), keep_several=True)
    assert one.answer == "1"


def test_warm_up_rows_need_a_solution_and_no_answer():
    assert read({"problem": "p", "solution": "so it is."}, needs="solution").answer is None
    published = read({"question": "p", "answer": "1+1 = 2\n#### 2"}, needs="solution")  # GSM8K's own columns
    assert (published.answer, published.solution) == ("2", "1+1 = 2\n#### 2")
    with pytest.raises(RowError, match="no solution"):
        read({"problem": "p", "answer": "1"}, needs="solution")
    with pytest.raises(RowError, match="several values"):
        read({"problem": "p", "answer": "1", "solution": [1, 2]}, needs="solution")
    assert read({"problem": "p", "answer": "1", "solution": [1, 2]}).solution is None


def test_responses_end_in_the_rows_own_answer():
    assert response_of("so $\\boxed{\\frac12}$.", "0.5") == "so $\\boxed{\\frac12}$."
    assert response_of("so $\\boxed{3}$.", "4") is None
    assert response_of("so it is four", "4") == "so it is four\n\nThe final answer is $\\boxed{4}$."
    assert response_of("so it is.", None) == "so it is."


def test_ids_are_unique_and_kept_where_possible():
    rows = [read({"id": name, "problem": "p", "answer": 1}) for name in ("a", "a", None, 7, "a", True)]
    unique_ids(rows, {"7"})
    assert [row.id for row in rows] == ["a", "f/a", "f-3", "f/7", "f-3-2", "f-3-3"]


@given(st.lists(st.sampled_from(["a", "f/a", "f-3", None]), max_size=9))
def test_ids_are_unique_for_any_names(names):
    rows = [read({"id": name, "problem": "p", "answer": 1}) for name in names]
    unique_ids(rows, set())
    assert len({row.id for row in rows}) == len(names)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_value(number):
    text = as_text(number, "it")
    assert float(text) == pytest.approx(float(number))
    assert tidy(text)[0] == text
