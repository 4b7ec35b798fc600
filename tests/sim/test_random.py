"""Random numbers: the CPU's, from one generator for all simulated devices."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DRAWS: dict[str, Callable[[str], Tensor]] = {
    "randn": lambda device: torch.randn(5, device=device),
    "rand": lambda device: torch.rand(2, 3, device=device),
    "randint": lambda device: torch.randint(0, 100, (6,), device=device),
    "randperm": lambda device: torch.randperm(7, device=device),
    "bernoulli": lambda device: torch.full((9,), 0.5, device=device).bernoulli(),
    "multinomial": lambda device: torch.ones(8, device=device).multinomial(3),
    "normal_": lambda device: torch.empty(5, device=device).normal_(1.0, 2.0),
    "exponential_": lambda device: torch.empty(5, device=device).exponential_(),
    "dropout": lambda device: torch.nn.functional.dropout(torch.ones(20, device=device), 0.5),
    "alpha_dropout": lambda device: torch.alpha_dropout(torch.ones(20, device=device), 0.5, True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_the_numbers_of_the_cpu(name: str) -> None:
    torch.manual_seed(3)
    here = DRAWS[name]("fxsim:2")
    torch.manual_seed(3)
    expected = DRAWS[name]("cpu")
    assert here.device == torch.device("fxsim:2")
    assert torch.equal(here.cpu(), expected)


def test_generators_of_a_device() -> None:
    generator = torch.Generator(device="fxsim:1")
    assert generator.device == torch.device("fxsim:1")
    generator.manual_seed(5)
    state = generator.get_state()
    first = torch.rand(3, generator=generator, device="fxsim:1")
    assert torch.equal(first.cpu(), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert generator.initial_seed() == 5
    generator.set_state(state)
    assert torch.equal(torch.rand(3, generator=generator, device="fxsim:1"), first)
    assert not torch.equal(torch.rand(3, generator=generator, device="fxsim:1"), first)


def test_generators_of_a_device_are_independent_of_the_default_one() -> None:
    expected = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    torch.rand(3, device="fxsim:0", generator=torch.Generator(device="fxsim:0"))
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))


def test_generators_of_the_cpu_are_taken() -> None:
    here = torch.rand(3, device="fxsim:0", generator=torch.Generator().manual_seed(4))
    assert torch.equal(here.cpu(), torch.rand(3, generator=torch.Generator().manual_seed(4)))


def test_random_state_of_the_device_module() -> None:
    module = torch.get_device_module("fxsim")
    module.manual_seed_all(11)
    state = module.get_rng_state("fxsim:1")
    first = torch.rand(3, device="fxsim:1")
    module.set_rng_state(state, 1)
    assert torch.equal(torch.rand(3, device="fxsim:1"), first)
    module.manual_seed(11)
    assert torch.equal(torch.rand(3, device="fxsim:1"), first)
    assert module.initial_seed() == 11
    states = module.get_rng_state_all()
    assert len(states) == 8
    again = torch.rand(3, device="fxsim:1")
    module.set_rng_state_all(states)
    assert torch.equal(torch.rand(3, device="fxsim:1"), again)


def test_fork_rng() -> None:
    torch.manual_seed(2)
    with torch.random.fork_rng(devices=[0, 1], device_type="fxsim"):
        torch.rand(5, device="fxsim:1")
    inside_undone = torch.rand(5, device="fxsim:1")
    torch.manual_seed(2)
    assert torch.equal(inside_undone, torch.rand(5, device="fxsim:1"))
