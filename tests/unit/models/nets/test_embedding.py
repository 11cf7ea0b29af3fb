"""Points on a sphere: prototypes and prompts by hand, the network's shapes, sentences as numbers."""

from __future__ import annotations

import math

import pytest
import torch

from chexmodels.nets.embedding import EmbeddingClassifier, TextEncoder, prompts, prototypes, words


def test_prototypes_by_hand() -> None:
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    target = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    weights, bias = prototypes(embedding, target, temperature=0.5)
    root = math.sqrt(0.5)
    torch.testing.assert_close(weights[0], torch.tensor([root + 1, root]) / 0.5)
    assert not weights[1:].any()  # never there, or always
    assert not bias.any()
    logits = torch.nn.functional.linear(embedding, weights, bias)
    assert logits[:2, 0].min() > 0 > logits[2, 0]


def test_prompts_are_the_softmax_of_a_pair() -> None:
    present, absent = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    image = torch.tensor([0.6, 0.8])
    weights, bias = prompts(present, absent, temperature=0.1)
    pair = torch.softmax(torch.tensor([0.6, 0.8]) / 0.1, dim=0)[0]
    assert float(torch.sigmoid(weights @ image + bias)) == pytest.approx(float(pair), abs=1e-6)


def test_the_network_answers_with_classes_only() -> None:
    torch.manual_seed(0)
    network = EmbeddingClassifier("efficientnet-lite0", ["a", "b", "c"], width=16, dimension=8).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        answer, embedding = network(image), network.embed(image)
    assert answer.keys() == {"classes"}
    assert answer["classes"].shape == (2, 3)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert network.encoder.dimension == 640


def test_sentences_are_read_word_by_word() -> None:
    torch.manual_seed(0)
    text = TextEncoder(["no", "mass", "effusion"], dimension=6, width=8).eval()
    assert words("Pleural_Thickening, no Mass.") == ["pleural", "thickening", "no", "mass"]
    numbers = text.numbers(["No effusion!", "mass", "a big mass"])
    assert numbers.tolist() == [[1, 3], [2, 0], [2, 0]]
    with torch.inference_mode():
        alone, padded = text(text.numbers(["mass"])), text(numbers)
    torch.testing.assert_close(alone[0], padded[1])
    torch.testing.assert_close(padded[0].norm(), torch.tensor(1.0))
    assert not torch.allclose(padded[0], text(text.numbers(["effusion no"]))[0])
    with pytest.raises(ValueError, match="nodule"):
        text.numbers(["nodule"])
