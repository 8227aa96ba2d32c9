"""KL of logits, which goes over rows in parts, beside torch's own arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from sparseflow.finetune import logit_divergence as divergence


def plain(student, teacher, temperature):
    mine, theirs = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return (theirs.exp() * (theirs - mine)).sum(-1)


def value_and_gradient(way, student, teacher, weights, temperature):
    leaf = student.detach().clone().requires_grad_()
    found = way(leaf, teacher, temperature)
    (found * weights).sum().backward()
    return found.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 11), (3, 7), (0, 4), (1, 1, 101)])
def test_value_and_gradient_do_not_depend_on_the_parts(shape, dtype, monkeypatch):
    monkeypatch.setattr(divergence, "_AT_ONCE", 50)  # parts of 4, 7, 12 and one rows
    generator = torch.Generator().manual_seed(sum(shape))
    student, teacher = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weights = torch.rand(shape[:-1], generator=generator)
    found, grad = value_and_gradient(divergence.kl, student, teacher, weights, 1.7)
    expected, right = value_and_gradient(plain, student, teacher, weights, 1.7)
    assert (found.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grad, right, atol=1e-7, rtol=1e-5 if dtype == torch.float32 else 2**-7)


def test_logits_that_are_not_contiguous():
    student, teacher = torch.randn(4, 6, 3).transpose(0, 1), torch.randn(6, 4, 3)
    found, grad = value_and_gradient(divergence.kl, student, teacher, torch.ones(6, 4), 1.0)
    expected, right = value_and_gradient(plain, student, teacher, torch.ones(6, 4), 1.0)
    torch.testing.assert_close((found, grad), (expected, right))


def test_compiled_it_gives_the_same_for_parts_of_any_size(monkeypatch):
    monkeypatch.setattr(divergence, "_AT_ONCE", 50)
    with divergence.compiled_divergence():
        for shape in ((3, 7), (2, 5, 11)):
            student, teacher = (torch.randn(shape).bfloat16() for _ in range(2))
            weights = torch.rand(shape[:-1])
            found, grad = value_and_gradient(divergence.kl, student, teacher, weights, 1.7)
            expected, right = value_and_gradient(plain, student, teacher, weights, 1.7)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(grad, right, atol=1e-7, rtol=2**-7)
