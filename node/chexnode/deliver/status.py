"""What a C-STORE status means for a delivery: codes of PS3.4 section B.2.3, PS3.7 section 9.1.1.1.9 and Annex C."""

from __future__ import annotations

from chexnode.deliver.destination import DeliveryAnswer

#: First match wins: (first code, last code, answer, meaning).
MEANINGS: tuple[tuple[int, int, DeliveryAnswer, str], ...] = (
    (0x0000, 0x0000, DeliveryAnswer.ACCEPTED, ""),
    (0x0111, 0x0111, DeliveryAnswer.ACCEPTED, "the destination already had it"),
    (0x0001, 0x0001, DeliveryAnswer.ACCEPTED, "warning"),
    (0x0107, 0x0107, DeliveryAnswer.ACCEPTED, "warning: attribute list error"),
    (0x0116, 0x0116, DeliveryAnswer.ACCEPTED, "warning: attribute value out of range"),
    (0xB000, 0xB000, DeliveryAnswer.ACCEPTED, "warning: data elements coerced"),
    (0xB006, 0xB006, DeliveryAnswer.ACCEPTED, "warning: elements discarded"),
    (0xB007, 0xB007, DeliveryAnswer.ACCEPTED, "warning: data set does not match SOP class"),
    (0xB000, 0xBFFF, DeliveryAnswer.ACCEPTED, "warning"),
    (0xA700, 0xA7FF, DeliveryAnswer.RETRY, "the destination is out of resources"),
    (0x0110, 0x0110, DeliveryAnswer.RETRY, "processing failure at the destination"),
    (0x0124, 0x0124, DeliveryAnswer.RETRY, "not authorised at the destination"),
    (0xA900, 0xA9FF, DeliveryAnswer.DEAD, "data set does not match SOP class"),
    # Some archives answer so while a database of theirs is locked or a study is being merged.
    (0xC000, 0xCFFF, DeliveryAnswer.DOUBTFUL, "the destination cannot understand the data set"),
    (0x0210, 0x0210, DeliveryAnswer.RETRY, "duplicate invocation"),
    (0x0213, 0x0213, DeliveryAnswer.RETRY, "the destination is short of resources"),
    (0x0122, 0x0122, DeliveryAnswer.DEAD, "SOP class not supported by destination"),
    (0x0117, 0x0117, DeliveryAnswer.DEAD, "invalid SOP instance"),
    (0x0100, 0x02FF, DeliveryAnswer.DEAD, "refused"),
)


def interpret(status: int) -> tuple[DeliveryAnswer, str]:
    """Return the answer and a sentence with the code, empty for a plain success.

    A code that the standard does not know is tried again: nobody has said that it can never work.
    """
    answer, meaning = next(
        ((answer, meaning) for first, last, answer, meaning in MEANINGS if first <= status <= last),
        (DeliveryAnswer.RETRY, "unknown status"),
    )
    return answer, f"0x{status:04X} {meaning}" if meaning else ""
