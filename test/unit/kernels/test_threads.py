import pytest
import threads
import torch

from sparseflow.runtime import native


def test_calls_from_several_threads_give_the_bits_of_one():
    threads.run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k", "m"), [(0, 8, 3), (5, 0, 3), (0, 0, 0), (1, 1, 0), (3, 5, 1)])
def test_empty_and_odd_weights(n, k, m, dtype):
    native.load()
    ops = torch.ops.sparseflow
    weight = ops.prune_2_4(torch.randn(n, k).to(dtype))
    values, positions = ops.pack_2_4(weight)
    assert torch.equal(ops.unpack_2_4(values, positions, k), weight)
    x, bias, residual = (torch.randn(shape).to(dtype) for shape in ((m, k), (n,), (m, n)))
    for policy in ([], threads.DENSE):
        y = ops.linear(x, values, positions, bias, residual, k, "relu", policy)
        expected = (x.float() @ weight.float().T + bias.float()).relu() + residual.float()
        torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("rule", ["threshold", "top_k", "statistical"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("rows", "neurons"), [(0, 0), (2, 0), (0, 7), (2, 7)])
def test_selecting_among_no_neurons_or_for_no_rows(rule, per_row, rows, neurons):
    native.load()
    chosen, count = torch.ops.sparseflow.contextual_select(torch.zeros(rows, neurons), rule, 0.0, per_row)
    lists = rows if per_row else 1
    assert chosen.shape == ((rows, neurons) if per_row else (neurons,))
    assert count.tolist() == [0] * lists
