"""Messages: what, where, what to do; every problem once, in an order that does not depend on chance."""

from __future__ import annotations

import itertools

import pytest

from i12e.errors import Problem, UserError, did_you_mean, ordered


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            Problem("a.yaml", 4, 7, "role: wrong", "did you mean server?"),
            "a.yaml:4:7: role: wrong (did you mean server?)",
        ),
        (Problem("a.yaml", 4, None, "wrong"), "a.yaml:4: wrong"),
        (Problem("a.yaml", None, None, "wrong"), "a.yaml: wrong"),
        (Problem("", None, None, "wrong", "mend it"), "wrong (mend it)"),
    ],
)
def test_a_problem_tells_its_place_as_far_as_it_has_one_then_what_is_wrong_then_the_remedy(
    problem: Problem, text: str
) -> None:
    assert str(problem) == text


def test_problems_are_told_by_file_then_line_then_column_with_numbers_as_numbers() -> None:
    told = [
        Problem("a.yaml", None, None, "whole file"),
        Problem("a.yaml", 2, None, "line"),
        Problem("a.yaml", 2, 9, "nine"),
        Problem("a.yaml", 2, 10, "ten"),
        Problem("a.yaml", 10, 1, "later"),
        Problem("b.yaml", 1, 1, "other file"),
    ]
    for order in itertools.permutations(told):
        assert ordered(order) == tuple(told)


def test_a_problem_that_was_found_twice_is_told_once() -> None:
    twice = [Problem("a.yaml", 1, 1, "x"), Problem("a.yaml", 1, 1, "x")]
    assert ordered(twice) == (twice[0],)


def test_an_error_carries_all_problems_and_says_them_a_line_each() -> None:
    one, two = Problem("a.yaml", 1, 1, "x"), Problem("b.yaml", 1, 1, "y")
    error = UserError(problem for problem in (two, one, two))
    assert error.problems == (one, two)
    assert str(error) == "a.yaml:1:1: x\nb.yaml:1:1: y"


def test_an_error_may_be_made_of_a_single_problem() -> None:
    problem = Problem("a.yaml", 1, 1, "x")
    assert UserError(problem).problems == (problem,)


@pytest.mark.parametrize(
    ("word", "guess"),
    [("sever", "did you mean server?"), ("agnet", "did you mean agent?"), ("banana", ""), ("", "")],
)
def test_a_guess_is_made_for_what_is_nearly_a_known_word_and_for_nothing_else(word: str, guess: str) -> None:
    assert did_you_mean(word, (known for known in ("server", "agent"))) == guess


def test_a_guess_with_nothing_known_is_none() -> None:
    assert did_you_mean("server", ()) == ""
