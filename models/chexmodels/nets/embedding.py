"""An image as a point on a sphere, and classes as directions in it: what CXR-CML learns and how it answers.

Scores by a trained layer, by prototypes and by prompts are all one linear layer on the embedding, so that a bundle of
any of them is the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.encoder import Encoder


class Pooled(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,D)``: the encoder's deepest maps, their mean and their maximum.

    S is a multiple of 32.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.dimension = 2 * self.encoder.widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        """``(B,D)`` float32."""
        deepest = self.encoder(image)[-1].float()
        return torch.cat([deepest.mean(dim=(2, 3)), deepest.amax(dim=(2, 3))], dim=1)


class Projection(nn.Module):
    """``(B,D)`` -> ``(B,E)`` of unit length; ``width`` is the hidden layer's, 0: there is none."""

    def __init__(self, before: int, width: int, after: int, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = [nn.Linear(before, width), nn.GELU(), nn.Dropout(dropout)] if width else []
        self.normalise = nn.BatchNorm1d(before)
        self.layers = nn.Sequential(*hidden, nn.Linear(width or before, after))

    def forward(self, features: Tensor) -> Tensor:
        """Rows of unit length."""
        return F.normalize(self.layers(self.normalise(features)), dim=1)


class EmbeddingClassifier(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``{"classes": (B,C)}``: logits of ``findings``, any of which may be there.

    ``encoder`` names one of :data:`chexmodels.nets.encoder.ENCODERS`. With an empty name the input is what an encoder
    from elsewhere makes of the image, ``(B,features)``.
    """

    def __init__(
        self,
        encoder: str,
        findings: Sequence[str],
        width: int = 256,
        dimension: int = 128,
        dropout: float = 0.0,
        features: int = 0,
    ) -> None:
        super().__init__()
        if not findings:
            raise ValueError("a classifier needs a finding")
        self.findings = tuple(findings)
        self.encoder = Pooled(encoder) if encoder else nn.Identity()
        self.projection = Projection(
            cast(Pooled, self.encoder).dimension if encoder else features, width, dimension, dropout
        )
        self.classes = nn.Linear(dimension, len(self.findings))

    def embed(self, image: Tensor) -> Tensor:
        """``(B,E)`` of unit length."""
        return cast(Tensor, self.projection(self.encoder(image)))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Logits ``(B,C)`` by the name of :class:`chexmodels.model.Raw`."""
        return {"classes": self.classes(self.embed(image))}


def prototypes(embedding: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Weights ``(C,E)`` and bias ``(C,)`` that compare an embedding with the mean of a class and of all others.

    ``embedding (N,E)`` of unit length, ``target (N,C)`` bool: the mean of the images of a class, brought to unit
    length, is its prototype (Snell et al., NeurIPS 2017), as is that of the images without it. The logit is the
    difference of the two cosines over ``temperature``. This is few-shot, not zero-shot: images of the class are known.
    A class without an image, or on every image, has weights of 0.
    """
    target = target.to(embedding.dtype)
    there = F.normalize(target.T @ embedding, dim=1)
    absent = F.normalize((1 - target).T @ embedding, dim=1)
    known = (target.any(dim=0) & ~target.all(dim=0))[:, None]
    weights = torch.where(known, (there - absent) / temperature, 0.0)
    return weights, torch.zeros(len(weights), dtype=embedding.dtype)


def prompts(present: Tensor, absent: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Weights ``(C,E)`` and bias ``(C,)`` of the texts "{}" and "no {}" of each class, ``(C,E)`` each, unit length.

    The softmax of an image's similarities with the pair (Tiu et al., CheXzero, 2022) is the sigmoid of their
    difference over ``temperature``. Zero-shot: no image of the class need have been seen.
    """
    return (present - absent) / temperature, torch.zeros(len(present), dtype=present.dtype)


class TextEncoder(nn.Module):
    """Sentences over a small vocabulary -> ``(B,E)`` of unit length. No CLIP: it has learnt no language.

    The words of ``vocabulary`` are numbered from 1, others are 0 and are passed over; :meth:`numbers` reads text. Words
    are embedded, read in order by a recurrent layer (GRU), and its last state is projected.
    """

    def __init__(self, vocabulary: Sequence[str], dimension: int, width: int = 64) -> None:
        super().__init__()
        self.vocabulary = {word: index for index, word in enumerate(vocabulary, 1)}
        self.words = nn.Embedding(len(self.vocabulary) + 1, width, padding_idx=0)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.projection = nn.Linear(width, dimension)

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """``(B,L)`` int64, padded with 0 at the end; an unknown word is left out, one known word is needed.

        Raises ``ValueError`` for a text of unknown words only.
        """
        read = [[self.vocabulary[w] for w in words(text) if w in self.vocabulary] for text in texts]
        for text, found in zip(texts, read, strict=True):
            if not found:
                raise ValueError(f"no word of {text!r} is known")
        longest = max(map(len, read))
        return torch.tensor([[*found, *[0] * (longest - len(found))] for found in read])

    def forward(self, numbers: Tensor) -> Tensor:
        """``(B,L)`` int64 -> ``(B,E)``."""
        states, _ = self.reader(self.words(numbers))
        last = (numbers > 0).sum(dim=1) - 1
        return F.normalize(self.projection(states[torch.arange(len(numbers)), last]), dim=1)


def words(text: str) -> list[str]:
    """Words of ``text`` in small letters, what is no letter or digit left out."""
    return "".join(c if c.isalnum() else " " for c in text.casefold()).split()
