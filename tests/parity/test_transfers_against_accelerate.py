"""A decoder split in two stages, against Accelerate's hooks at the same split.

Both run on the simulated devices, which count every copy between devices.
"""

import pytest
import torch
from torch import nn

import fxdevice
from tests.zoo.accelerate_dispatch import dispatch_with_map

NUM_LAYERS = 4
BATCH, LENGTH, HIDDEN, VOCAB = 2, 16, 128, 1000
HIDDEN_BYTES = BATCH * LENGTH * HIDDEN * 4
ROTARY_BYTES = LENGTH * (HIDDEN // 4) * 4  # cos or sin [1, length, head size]
TOKEN_BYTES = BATCH * LENGTH * 8
LOGIT_BYTES = BATCH * LENGTH * VOCAB * 4


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
    )
    model: nn.Module = LlamaForCausalLM(config).eval()
    return model


def _device_map(first: str, second: str) -> dict[str, str]:
    """Return the split: the embeddings and half the layers, then the rest."""
    half = NUM_LAYERS // 2
    layers = {f"model.layers.{i}": first if i < half else second for i in range(NUM_LAYERS)}
    return {
        "model.embed_tokens": first,
        "model.rotary_emb": first,
        **layers,
        "model.norm": second,
        "lm_head": second,
    }


def _steady_copies(model: nn.Module, ids: torch.Tensor) -> fxdevice.sim.SimStats:
    """Return what one call counts after the first."""
    with torch.no_grad():
        model(ids, use_cache=False)
        with fxdevice.sim.record() as recorded:
            model(ids, use_cache=False)
    return recorded.stats


def test_decoder_in_two_stages(capsys: pytest.CaptureFixture[str]) -> None:
    fxdevice.sim.enable(8)
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH))
    plain = _llama()
    with torch.no_grad():
        wanted = plain(ids, use_cache=False).logits

    split = _device_map("fxsim:0", "fxsim:1")
    by_hooks = dispatch_with_map(_llama(), split)
    theirs = _steady_copies(by_hooks, ids)

    model = fxdevice.compile(_llama(), ["fxsim:0", "fxsim:1"], device_map=split, inner="eager")
    ours = _steady_copies(model, ids)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, use_cache=False).logits, wanted)

    with capsys.disabled():
        for name, counted in (("Accelerate", theirs), ("fxdevice", ours)):
            print(f"\n{name}: {counted.num_copies} copies, {counted.num_copied_bytes:,} bytes")
            for (source, destination), count in sorted(counted.copies.items()):
                print(f"  {source} -> {destination}: {count.num_copies}, {count.num_bytes:,} bytes")

    # In: the token numbers. Between: the hidden state, and cos and sin for the later layers. Out:
    # the logits. The causal mask is made again on the second device.
    assert {pair: (c.num_copies, c.num_bytes) for pair, c in ours.copies.items()} == {
        ("cpu", "fxsim:0"): (1, TOKEN_BYTES),
        ("fxsim:0", "fxsim:1"): (3, HIDDEN_BYTES + 2 * ROTARY_BYTES),
        ("fxsim:1", "cpu"): (1, LOGIT_BYTES),
    }
    assert ours.num_copies < theirs.num_copies
    assert ours.num_copied_bytes < theirs.num_copied_bytes


def test_report_says_what_was_counted() -> None:
    fxdevice.sim.enable(8)
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH))
    model = fxdevice.compile(_llama(), ["fxsim:0", "fxsim:1"], inner="eager", strategy="pipeline")
    counted = _steady_copies(model, ids)
    transfers = fxdevice.report(model).transfers()
    back = counted.copies["fxsim:1", "cpu"]
    assert back.num_copies == 1
    assert len(transfers) == counted.num_copies - back.num_copies
    total = sum(transfer.num_bytes for transfer in transfers)
    assert total == counted.num_copied_bytes - back.num_bytes
