"""One call for what several threads ask at the same time: a product with all documents reads them once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class _Question:
    asked: Tensor
    answer: Tensor | None = None
    error: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self.answer is None and self.error is None


class Together:
    """Calls a function once for all rows that wait, the longest waiting first, while nobody else does.

    A thread that comes alone is answered at once. One that comes while the function runs waits for that, and then goes
    with all others that came meanwhile.

    Args:
        answer: Maps rows [Q, D] to as many answers, [Q, ...].
        most: Rows to answer at once, unless one thread asks more.

    Example:
        >>> Together(lambda rows: 2 * rows, most=100)(torch.ones(1, 2))
        tensor([[2., 2.]])
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], most: int) -> None:
        self._answer = answer
        self._most = most
        self._waiting: list[_Question] = []
        self._is_busy = False
        self._changed = threading.Condition()

    def __call__(self, asked: Tensor) -> Tensor:
        """Return the answers of rows [Q, D]; what the function raises is raised for each of those it was called for."""
        question = _Question(asked)
        with self._changed:
            self._waiting.append(question)
        while question.is_open:
            with self._changed:
                self._changed.wait_for(lambda: not (question.is_open and self._is_busy))
                if not question.is_open:
                    break
                self._is_busy = True
                taken = self._taken()
            try:
                self._ask(taken)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()
        if question.answer is None:
            raise question.error or RuntimeError("expected an answer")
        return question.answer

    def _taken(self) -> list[_Question]:
        """Take as many of those that wait as are answered at once, the first at least."""
        rows = count = 0
        while count < len(self._waiting) and (not count or rows + len(self._waiting[count].asked) <= self._most):
            rows += len(self._waiting[count].asked)
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _ask(self, taken: list[_Question]) -> None:
        try:
            rows = [question.asked for question in taken]
            found = self._answer(rows[0] if len(rows) == 1 else torch.cat(rows))
            for question, answer in zip(taken, torch.split(found, [len(each) for each in rows]), strict=True):
                question.answer = answer
        except Exception as error:
            for question in taken:
                question.error = error
