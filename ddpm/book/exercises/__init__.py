"""Exercises that answer: `check("half-power", first_below_half)` tells a reader whether his own answer is right."""

from difflib import get_close_matches
from typing import Any

import torch

from ddpm.book.exercises import (  # noqa: F401 (each enters the checks of its chapter)
    appendix_a,
    appendix_b,
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_04,
    chapter_05,
    chapter_05b,
    chapter_06,
    chapter_07,
    chapter_08,
    chapter_09,
    chapter_10,
    chapter_11,
    chapter_12,
    chapter_13,
)
from ddpm.book.exercises.answers import EXERCISES as EXERCISES
from ddpm.book.exercises.answers import Ask, UnwrittenError


def check(name: str, answer: Any) -> None:
    """Try an answer to one of the book's exercises, and print that it is right, or that there is none yet.

    The check hands inputs of its own to the answer, numbers, lists and tensors, and compares what comes back; it draws
    its random numbers apart, in double precision, and leaves torch's generator and default as they were.

    Args:
        name: the exercise, as its page calls it.
        answer: the function, or the value, that the exercise asks for.

    Raises:
        AssertionError: if the answer is wrong; the message holds the first input where it is off, what the answer gave,
            and, of a function, what it should have given.
        ValueError: if no exercise is called so.
        TypeError: if the answer is no function, or not one of these arguments, where a function is asked for.
    """
    if name not in EXERCISES:
        near = get_close_matches(str(name), EXERCISES, n=3)
        meant = f"; did you mean {' or '.join(map(repr, near))}" if near else ""
        raise ValueError(f"unknown exercise {name!r}{meant}? There are: {', '.join(EXERCISES)}")
    ask = Ask(EXERCISES[name], answer)
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        try:
            EXERCISES[name].look(ask)
        except UnwrittenError:
            print(f"{name}: no answer yet, nothing came back")
            return
        finally:
            torch.set_default_dtype(dtype)
    print(f"{name}: right")
