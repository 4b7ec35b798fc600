"""Tiny, random models of real architectures, to compare placed with plain execution on.

Importing this package imports torch only; a model's own library is imported when the model is
built. `EXAMPLES` is the whole catalogue.
"""

from tests.zoo import (
    behaviours,
    contrastive,
    decoders,
    diffusion,
    encoder_decoders,
    encoders,
    omnilmm,
    recommender,
    speech,
    state_space,
    timm_models,
    torch_modules,
    unet,
    vision,
    vision_language,
)
from tests.zoo.example import Example, cast_floating, floating_tensors, unique_names

__all__ = ["EXAMPLES", "Example", "cast_floating", "example", "floating_tensors", "names"]

EXAMPLES = unique_names(
    (
        *decoders.EXAMPLES,
        *encoder_decoders.EXAMPLES,
        *encoders.EXAMPLES,
        *state_space.EXAMPLES,
        *contrastive.EXAMPLES,
        *vision_language.EXAMPLES,
        *omnilmm.EXAMPLES,
        *vision.EXAMPLES,
        *timm_models.EXAMPLES,
        *unet.EXAMPLES,
        *diffusion.EXAMPLES,
        *speech.EXAMPLES,
        *torch_modules.EXAMPLES,
        *recommender.EXAMPLES,
        *behaviours.EXAMPLES,
    )
)


def names() -> list[str]:
    """Return the names of all examples, in catalogue order."""
    return [entry.name for entry in EXAMPLES]


def example(name: str) -> Example:
    """Return the example of that name.

    Args:
        name: One of `names()`.

    Returns:
        The example.

    Raises:
        KeyError: There is none of that name.
    """
    for entry in EXAMPLES:
        if entry.name == name:
            return entry
    raise KeyError(f"expected one of {names()}, found {name!r}")
