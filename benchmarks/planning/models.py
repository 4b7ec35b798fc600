"""Which models does the planner's benchmark have, and how large are they?

    .venv/bin/python -m benchmarks.planning.models [NAME ...]

Prints one line a model. No weights are made: everything is captured on the meta device. Needs
transformers, diffusers and timm.
"""

from __future__ import annotations

import argparse
import warnings

from benchmarks.planning import mixed_models, text_models, vision_models
from benchmarks.planning.captured import BenchModel, CapturedModel, captured

__all__ = ["MODELS", "BenchModel", "main", "model_named"]

MODELS: tuple[BenchModel, ...] = (
    BenchModel("llama_8b", "decoder", text_models.llama_8b),
    BenchModel("llama_70b", "decoder", text_models.llama_70b),
    BenchModel("llama_8b_decode", "decoder", text_models.llama_8b_decode),
    BenchModel("llama_3b_training", "decoder", text_models.llama_3b, training=True),
    BenchModel("qwen3_14b", "decoder", text_models.qwen3_14b),
    BenchModel("mixtral_8x7b", "moe", text_models.mixtral_8x7b),
    BenchModel("gpt2_xl_training", "decoder", text_models.gpt2_xl, training=True),
    BenchModel("t5_large", "encoder_decoder", text_models.t5_large),
    BenchModel("bert_large", "encoder", text_models.bert_large),
    BenchModel("bert_large_training", "encoder", text_models.bert_large_training, training=True),
    BenchModel("vit_large", "vision_transformer", vision_models.vit_large),
    BenchModel(
        "vit_large_training", "vision_transformer", vision_models.vit_large_training, training=True
    ),
    BenchModel("swin_large", "vision_transformer", vision_models.swin_large),
    BenchModel("convnext_large", "cnn", vision_models.convnext_large),
    BenchModel("resnet101", "cnn", vision_models.resnet101),
    BenchModel("resnet101_training", "cnn", vision_models.resnet101_training, training=True),
    BenchModel("inception_v4", "cnn", vision_models.inception_v4),
    BenchModel("nasnet_large", "cnn", vision_models.nasnet_large),
    BenchModel("efficientnet_b7", "cnn", vision_models.efficientnet_b7),
    BenchModel("sdxl_unet", "diffusion", vision_models.sdxl_unet),
    BenchModel("llava_7b", "vision_language", mixed_models.llava_7b),
    BenchModel("clip_large", "two_towers", mixed_models.clip_large),
    BenchModel("whisper_large", "speech", mixed_models.whisper_large),
    BenchModel("dlrm", "recommender", mixed_models.dlrm),
    BenchModel("ensemble", "ensemble", mixed_models.ensemble),
    BenchModel("wide_branches_training", "ensemble", mixed_models.wide_branches, training=True),
    BenchModel("deep_mlp", "mlp", mixed_models.deep_mlp),
)


def model_named(name: str) -> BenchModel:
    """Returns the model of that name.

    Raises:
        KeyError: There is none.
    """
    for model in MODELS:
        if model.name == name:
            return model
    raise KeyError(f"expected one of {[model.name for model in MODELS]}; found {name!r}")


def main() -> None:
    """Captures the models that the command line names, all by default, and prints the table."""
    parser = argparse.ArgumentParser(description="sizes of the planner's benchmark models")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all by default")
    chosen = parser.parse_args().names or [model.name for model in MODELS]
    warnings.simplefilter("ignore")  # of the libraries: downloads, faster kernels
    print(f"{'model':24}{'graphs':>7}{'nodes':>8}{'state GB':>10}{'GFLOPs':>12}{'CPU s':>8}")
    for name in chosen:
        print(_line(captured(model_named(name))), flush=True)


def _line(found: CapturedModel) -> str:
    figures = (
        f"{found.name:24}{len(found.dags):7}{found.num_nodes:8}{found.parameter_bytes / 1e9:10.2f}"
        f"{found.flops / 1e9:12.1f}{found.capture_cpu_s:8.1f}"
    )
    return figures if found.stopped_by is None else f"{figures}  stopped at {found.stopped_by}"


if __name__ == "__main__":
    main()
