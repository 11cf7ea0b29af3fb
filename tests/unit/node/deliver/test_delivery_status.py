"""What a C-STORE status means for a delivery."""

from __future__ import annotations

import pytest

from chexnode.deliver.destination import Answer
from chexnode.deliver.status import interpret

CASES = [
    (0x0000, Answer.ACCEPTED, ""),
    (0x0111, Answer.ACCEPTED, "already had it"),
    (0x0001, Answer.ACCEPTED, "warning"),
    (0x0107, Answer.ACCEPTED, "attribute list error"),
    (0x0116, Answer.ACCEPTED, "out of range"),
    (0xB000, Answer.ACCEPTED, "coerced"),
    (0xB006, Answer.ACCEPTED, "discarded"),
    (0xB007, Answer.ACCEPTED, "does not match SOP class"),
    (0xB123, Answer.ACCEPTED, "warning"),
    (0xA700, Answer.RETRY, "out of resources"),
    (0xA7FF, Answer.RETRY, "out of resources"),
    (0x0110, Answer.RETRY, "processing failure"),
    (0x0124, Answer.RETRY, "not authorised"),
    (0xA900, Answer.DEAD, "does not match SOP class"),
    (0xA9FF, Answer.DEAD, "does not match SOP class"),
    (0xC000, Answer.DOUBTFUL, "cannot understand"),
    (0xCFFF, Answer.DOUBTFUL, "cannot understand"),
    (0x0122, Answer.DEAD, "SOP class not supported"),
    (0x0117, Answer.DEAD, "invalid SOP instance"),
    (0x0210, Answer.RETRY, "duplicate invocation"),
    (0x0213, Answer.RETRY, "short of resources"),
    (0x0211, Answer.DEAD, "refused"),
    (0xD00D, Answer.RETRY, "unknown status"),
    (0xFE00, Answer.RETRY, "unknown status"),
]


@pytest.mark.parametrize(("status", "answer", "words"), CASES, ids=[f"{case[0]:04X}" for case in CASES])
def test_the_class_of_a_status_decides(status: int, answer: Answer, words: str) -> None:
    found, sentence = interpret(status)
    assert found is answer
    assert words in sentence


def test_only_plain_success_is_silent() -> None:
    assert [status for status in range(0x10000) if interpret(status)[1] == ""] == [0x0000]


def test_the_sentence_has_the_code() -> None:
    assert interpret(0xA700)[1] == "0xA700 the destination is out of resources"
