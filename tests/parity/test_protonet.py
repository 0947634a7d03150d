"""ProtoNet: prototypes, both kinds of logits, loss and gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F

from fsl.method import class_means
from fsl.methods.protonet import cosine, negative_squared_distance

if TYPE_CHECKING:
    Archive = Any


@pytest.mark.archive("protonet")
def test_prototypes_and_logits(archive: Archive) -> None:
    query, labels = archive["in/query"][None], archive["in/support_label"][None]
    prototypes = class_means(archive["in/support"][None], labels, int(labels.max()) + 1)
    torch.testing.assert_close(prototypes[0], archive["prototypes"], rtol=1e-5, atol=1e-5)
    logits = negative_squared_distance(query, prototypes)[0]
    torch.testing.assert_close(logits, archive["logits"], rtol=1e-5, atol=1e-5)
    similar = cosine(query, prototypes)[0]
    torch.testing.assert_close(similar, archive["logits_cosine"], rtol=1e-5, atol=1e-5)


@pytest.mark.archive("protonet")
def test_loss_and_gradients(archive: Archive) -> None:
    support, query = (archive[f"in/{name}"].requires_grad_() for name in ("support", "query"))
    labels = archive["in/support_label"]
    prototypes = class_means(support[None], labels[None], int(labels.max()) + 1)
    loss = F.cross_entropy(
        negative_squared_distance(query[None], prototypes)[0], archive["in/query_label"]
    )
    torch.testing.assert_close(loss, archive["loss"], rtol=1e-5, atol=1e-5)
    torch.autograd.backward(loss)
    torch.testing.assert_close(support.grad, archive["grad/support"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(query.grad, archive["grad/query"], rtol=1e-4, atol=1e-5)
