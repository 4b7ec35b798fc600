"""What the builders of the zoo's models and inputs share.

Every model is created from a configuration with random weights, so nothing is downloaded. All
randomness comes from fixed seeds inside a forked generator state: building a model or its inputs
gives the same tensors every time and leaves the caller's random state alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.example import Inputs

SEED = 20250512


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the module that `make` creates, with reproducible weights, in eval mode.

    Parameters that start out constant (biases, norm weights, zero-initialised gates) get noise:
    otherwise mixing two of them up, or dropping a gated branch, would not change any output.

    Args:
        make: Creates the module, drawing its weights from the global generator.

    Returns:
        The module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                flat = parameter.flatten()
                if flat.numel() > 1 and flat.is_floating_point() and bool((flat == flat[0]).all()):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def from_config(model_class: str, config_class: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a transformers model from a configuration.

    transformers is imported by the builder, not by this module: it takes seconds.

    Args:
        model_class: Name of the model class in transformers.
        config_class: Name of its configuration class.
        **options: Fields of the configuration.

    Returns:
        A function without arguments that builds the model.
    """

    def make() -> nn.Module:
        import transformers

        # Its warnings concern downloads, faster kernels and tokenizers, none of which matter here.
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        config = getattr(transformers, config_class)(**options)
        model: nn.Module = getattr(transformers, model_class)(config)
        return model

    return lambda: seeded(make)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normally distributed values of the given shape, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED + seed))


def token_ids(
    batch: int = 2, length: int = 8, seed: int = 0, low: int = 3, high: int = 128
) -> torch.Tensor:
    """Return token numbers in [low, high), shape [batch, length], the same for the same seed."""
    generator = torch.Generator().manual_seed(SEED + seed)
    return torch.randint(low, high, (batch, length), generator=generator)


def keywords(make: Callable[[], dict[str, Any]]) -> Callable[[], Inputs]:
    """Return an `Example.inputs` with no positional arguments and the keywords of `make`."""
    return lambda: ((), make())


def greedy(inputs: Callable[[], Inputs], num_tokens: int = 5) -> Callable[[], dict[str, Any]]:
    """Return keyword arguments for a greedy `generate` of a fixed number of tokens.

    The end token is suppressed by asking for as many tokens at least as at most, so that a random
    model cannot stop early and make the comparison trivial.

    Args:
        inputs: The example's inputs; all must be keywords that `generate` accepts.
        num_tokens: How many tokens to generate.

    Returns:
        A function without arguments that returns the keyword arguments.
    """

    def make() -> dict[str, Any]:
        positional, options = inputs()
        assert not positional
        return {
            **options,
            "do_sample": False,
            "max_new_tokens": num_tokens,
            "min_new_tokens": num_tokens,
        }

    return make
