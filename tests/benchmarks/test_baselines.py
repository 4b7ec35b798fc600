"""The baselines written by hand, against plain PyTorch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmarks.speed.data_parallel import NaiveDataParallel
from benchmarks.speed.parts import Block, CachedBlock, CachedDecoder
from benchmarks.speed.split import cut_blocks, module_slots
from benchmarks.speed.stages import MicroBatches, StageSequence
from tests.benchmarks.stage_cases import chain


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_data_parallel_infers_what_the_model_does(num_slots: int) -> None:
    model, x = chain()
    placed = NaiveDataParallel(model, num_slots, 1)
    with torch.no_grad():
        torch.testing.assert_close(placed(x), model(x))


def test_data_parallel_brings_gradients_to_the_parameters() -> None:
    model, x = chain(training=True)
    # A parameter that two modules share gets the gradients of both, from all replicas.
    tied = nn.Linear(8, 8).double()
    model.blocks.insert(1, tied)
    model.blocks.insert(2, tied)
    plain = copy.deepcopy(model)
    plain(x).backward()
    losses = NaiveDataParallel(model, 2, 1)(x)
    assert losses.shape == (2,)
    losses.mean().backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_data_parallel_copies_on_every_call_and_keeps_the_first_replicas_buffers() -> None:
    model = nn.BatchNorm1d(3).double().train()
    x = torch.randn(8, 3, dtype=torch.float64)
    half = copy.deepcopy(model)
    half(x[:4])
    placed = NaiveDataParallel(model, 2, 1)
    with torch.no_grad():
        placed(x)
        torch.testing.assert_close(model.running_mean, half.running_mean)
        model.weight.fill_(0.0)
        model.bias.fill_(3.0)
        assert placed(x).eq(3.0).all()


def test_data_parallel_takes_and_returns_several_tensors() -> None:
    model = CachedDecoder(11, 8, 2, 3).double()
    cached = torch.randn(4, 3, 2, 5, 4, dtype=torch.float64)
    args = (torch.randint(0, 11, (4, 1)), cached, cached.flip(0))
    with torch.no_grad():
        torch.testing.assert_close(NaiveDataParallel(model, 2, 1)(*args), model(*args))


def test_data_parallel_tells_what_failed_in_a_thread() -> None:
    with pytest.raises(RuntimeError, match="a replica failed") as raised:
        NaiveDataParallel(nn.Linear(3, 2), 2, 1)(torch.ones(4, 5))
    assert "shapes cannot be multiplied" in str(raised.value.__cause__)


def test_cached_steps_are_causal_attention() -> None:
    model = CachedDecoder(11, 8, 2, 3).double()
    ids = torch.randint(0, 11, (2, 4))
    cached = [torch.empty(2, 3, 2, 0, 4, dtype=torch.float64)] * 2
    with torch.no_grad():
        for position in range(4):
            logits, *new = model(ids[:, position : position + 1], *cached)
            cached = [torch.cat(pair, 3) for pair in zip(cached, new, strict=True)]
        x = model.words(ids)
        for block in model.blocks:
            assert isinstance(block, CachedBlock)
            block.attention.is_causal = True
            x = Block.forward(block, x)
        torch.testing.assert_close(logits[:, 0], model.head(x)[:, -1])


def test_micro_batches_infer_and_train_as_the_model_does() -> None:
    model, x = chain()
    slots = module_slots(model, (x,), 2)
    pipeline = MicroBatches(cut_blocks(model, slots), ("cpu", "cpu"), 4, 1)
    torch.testing.assert_close(pipeline.infer(x), model(x).detach())

    model, x = chain(training=True)
    plain = copy.deepcopy(model)
    expected = plain(x)
    expected.backward()
    slots = module_slots(model, (x,), 2)
    pipeline = MicroBatches(cut_blocks(model, slots), ("cpu", "cpu"), 4, 1)
    torch.testing.assert_close(pipeline.train(x), expected.detach())
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_stages_in_sequence_do_what_the_model_does() -> None:
    model, x = chain()
    stages = cut_blocks(model, module_slots(model, (x,), 2))
    torch.testing.assert_close(StageSequence(stages, ("cpu", "cpu"))(x), model(x))
