"""What a C-STORE status means for a delivery."""

from __future__ import annotations

import pytest

from chexnode.deliver.destination import DeliveryAnswer
from chexnode.deliver.status import interpret

CASES = [
    (0x0000, DeliveryAnswer.ACCEPTED, ""),
    (0x0111, DeliveryAnswer.ACCEPTED, "already had it"),
    (0x0001, DeliveryAnswer.ACCEPTED, "warning"),
    (0x0107, DeliveryAnswer.ACCEPTED, "attribute list error"),
    (0x0116, DeliveryAnswer.ACCEPTED, "out of range"),
    (0xB000, DeliveryAnswer.ACCEPTED, "coerced"),
    (0xB006, DeliveryAnswer.ACCEPTED, "discarded"),
    (0xB007, DeliveryAnswer.ACCEPTED, "does not match SOP class"),
    (0xB123, DeliveryAnswer.ACCEPTED, "warning"),
    (0xA700, DeliveryAnswer.RETRY, "out of resources"),
    (0xA7FF, DeliveryAnswer.RETRY, "out of resources"),
    (0x0110, DeliveryAnswer.RETRY, "processing failure"),
    (0x0124, DeliveryAnswer.RETRY, "not authorised"),
    (0xA900, DeliveryAnswer.DEAD, "does not match SOP class"),
    (0xA9FF, DeliveryAnswer.DEAD, "does not match SOP class"),
    (0xC000, DeliveryAnswer.DOUBTFUL, "cannot understand"),
    (0xCFFF, DeliveryAnswer.DOUBTFUL, "cannot understand"),
    (0x0122, DeliveryAnswer.DEAD, "SOP class not supported"),
    (0x0117, DeliveryAnswer.DEAD, "invalid SOP instance"),
    (0x0210, DeliveryAnswer.RETRY, "duplicate invocation"),
    (0x0213, DeliveryAnswer.RETRY, "short of resources"),
    (0x0211, DeliveryAnswer.DEAD, "refused"),
    (0xD00D, DeliveryAnswer.RETRY, "unknown status"),
    (0xFE00, DeliveryAnswer.RETRY, "unknown status"),
]


@pytest.mark.parametrize(("status", "answer", "words"), CASES, ids=[f"{case[0]:04X}" for case in CASES])
def test_the_class_of_a_status_decides(status: int, answer: DeliveryAnswer, words: str) -> None:
    found, sentence = interpret(status)
    assert found is answer
    assert words in sentence


def test_only_plain_success_is_silent() -> None:
    assert [status for status in range(0x10000) if interpret(status)[1] == ""] == [0x0000]


def test_the_sentence_has_the_code() -> None:
    assert interpret(0xA700)[1] == "0xA700 the destination is out of resources"
