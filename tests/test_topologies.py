"""Topologies by name, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.device_spec import DeviceSpec, WorkFactors
from fxdevice.errors import DeviceSpecError
from fxdevice.topologies import (
    MAX_SLOTS,
    check_connected,
    custom,
    islands,
    link_names,
    named_link,
    ring,
    slots_of,
    topology_from_json,
    topology_to_json,
    uniform,
)
from fxdevice.topology import Link, Slot, Topology
from tests.strategies import topologies

OWN = DeviceSpec("own", {"float32": 1e12}, 1e11, memory_bytes=None)


def kinds(topology: Topology) -> list[str]:
    """Returns a row of letters for each source: the first of each link's kind, "." for none."""
    size = len(topology.slots)
    rows = []
    for i in range(size):
        links = ["-" if i == j else topology.link(i, j) for j in range(size)]
        rows.append("".join("." if x is None else x if x == "-" else x.kind[0] for x in links))  # type: ignore[union-attr]
    return rows


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ("T4", ["T4:0"]),
        (" 2 x t4 ", ["T4:0", "T4:1"]),
        ("2xA100-40GB,T4,1*a100-40gb", ["A100-40GB:0", "A100-40GB:1", "T4:0", "A100-40GB:2"]),
        (["T4", "2XL4", OWN, OWN], ["T4:0", "L4:0", "L4:1", "own:0", "own:1"]),
        (OWN, ["own:0"]),
    ],
)
def test_devices_as_a_caller_writes_them(devices: Any, names: list[str]) -> None:
    slots = slots_of(devices)
    assert [slot.device for slot in slots] == names
    assert [slot.index for slot in slots] == list(range(len(names)))
    assert all(slot.memory_bytes == slot.spec.memory_bytes for slot in slots)
    assert all(slot.queue is None for slot in slots)


def test_layouts() -> None:
    assert kinds(uniform("3xT4", "pcie3")) == ["-pp", "p-p", "pp-"]
    assert kinds(uniform("2xT4", None)) == ["-.", ".-"]
    assert kinds(islands("4xA10", 2, inside="nvlink3", between="host")) == [
        "-nhh",
        "n-hh",
        "hh-n",
        "hhn-",
    ]
    assert kinds(ring("5xT4", "pcie3")) == ["-p..p", "p-p..", ".p-p.", "..p-p", "p..p-"]
    assert kinds(ring("4xT4", "pcie3", otherwise="host")) == ["-php", "p-ph", "hp-p", "php-"]
    assert kinds(ring("2xT4", "pcie3")) == ["-p", "p-"]
    assert kinds(ring("T4", "pcie3")) == ["-"]
    one_way = custom("2xT4", {(0, 1): "pcie3"}, otherwise="none")
    assert kinds(one_way) == ["-p", ".-"]
    square = custom(
        "3xT4", [[None, "pcie3", None], ["host"] + [None] * 2, ["nvlink4"] * 2 + [None]]
    )
    assert kinds(square) == ["-p.", "h-.", "nn-"]


def test_a_link_of_ones_own() -> None:
    link = Link(1e-3, 1e6, "string", channel="s")
    assert uniform([OWN, "T4"], link).link(1, 0) == link


def test_host_staging_takes_two_hops_of_pcie4_and_shares_the_host() -> None:
    host, pcie = named_link("host"), named_link("pcie4")
    assert host is not None
    assert pcie is not None
    num_bytes = 10**9
    assert num_bytes / host.bytes_per_s == pytest.approx(2 * num_bytes / pcie.bytes_per_s)
    assert host.channel is not None
    assert pcie.channel is None


@pytest.mark.parametrize(
    ("name", "gbyte_per_s"),
    [
        ("pcie3", 15.75),
        ("PCIe4", 31.5),
        ("pcie5", 63.0),
        ("nvlink4", 450.0),
        ("ethernet-100g", 12.5),
    ],
)
def test_bandwidth_of_one_direction(name: str, gbyte_per_s: float) -> None:
    link = named_link(name)
    assert link is not None
    assert link.bytes_per_s / 1e9 == pytest.approx(gbyte_per_s, rel=1e-3)


def test_every_link_name_is_known() -> None:
    assert {name for name in link_names() if named_link(name.upper()) is None} == {"none"}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: uniform([], "pcie3"), "at least one device; found none"),
        (lambda: uniform("", "pcie3"), "unknown device ''"),
        (lambda: uniform("0xT4", "pcie3"), f"1 to {MAX_SLOTS} devices in '0xT4'"),
        (lambda: uniform("9" * 5000 + "xT4", "pcie3"), f"1 to {MAX_SLOTS} devices"),
        (lambda: uniform(["1024xT4", "T4"], "pcie3"), f"at most {MAX_SLOTS} devices; found 1025"),
        (lambda: uniform("-1xT4", "pcie3"), "unknown device '-1xT4'"),
        (lambda: uniform("2xT5", "pcie3"), "unknown device 'T5'.*T4"),
        (lambda: uniform(3, "pcie3"), "devices must be a DeviceSpec, a name, or a list"),  # type: ignore[arg-type]
        (lambda: uniform(["T4", 3], "pcie3"), "a DeviceSpec or a name; found 3"),  # type: ignore[list-item]
        (lambda: uniform("2xT4", "nvlnk4"), "unknown link 'nvlnk4' .did you mean 'nvlink4'"),
        (lambda: uniform("2xT4", 1e9), "link must be a Link"),  # type: ignore[arg-type]
        (lambda: named_link(["pcie3"]), "unknown link"),  # type: ignore[arg-type]
        (lambda: islands("6xT4", 4, "pcie3", None), "divides the 6 devices .* found 4"),
        (lambda: islands("6xT4", 0, "pcie3", None), "found 0"),
        (lambda: islands("6xT4", -2, "pcie3", None), "found -2"),
        (lambda: islands("6xT4", True, "pcie3", None), "found True"),
        (lambda: islands("6xT4", 2.0, "pcie3", None), "found 2.0"),  # type: ignore[arg-type]
        (lambda: custom("2xT4", {(0, 2): None}), r"slots 0 to 1; found \(0, 2\)"),
        (lambda: custom("2xT4", {(-1, 0): None}), r"found \(-1, 0\)"),
        (lambda: custom("2xT4", {(True, 0): None}), r"found \(True, 0\)"),
        (lambda: custom("2xT4", {0: None}), "found 0"),  # type: ignore[dict-item]
        (lambda: custom("2xT4", {(1, 1): None}), "no link to itself"),
        (lambda: custom("2xT4", [[None, "pcie3"]]), "found 1 rows of lengths 2"),
        (lambda: custom("2xT4", [[None], ["pcie3"]]), "found 2 rows of lengths 1, 1"),
        (lambda: custom("2xT4", ["ab", "cd"]), "2 rows of 2 links"),
        (lambda: custom("2xT4", 3), "found 3"),  # type: ignore[arg-type]
        (lambda: custom("2xT4", [["pcie3", None], [None, None]]), r"links\[0\]\[0\] must be None"),
        (lambda: custom("2xT4", {(0, 1): "x"}), "unknown link 'x'"),
        (lambda: custom("2xT4", {(0, 1): 1.5}), r"links\[\(0, 1\)\] must be a Link"),  # type: ignore[dict-item]
    ],
)
def test_bad_input(make: Callable[[], object], match: str) -> None:
    with pytest.raises(DeviceSpecError, match=match):
        make()


@st.composite
def linked_topologies(draw: st.DrawFn) -> Topology:
    """Draws slots with links of their own for some pairs, and slots that share a device."""
    base = draw(topologies(max_slots=5, are_limited=True))
    size = len(base.slots)
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    link = st.none() | st.builds(
        Link,
        st.floats(0, 1),
        st.floats(1e-3, 1e15),
        st.text(max_size=3),
        st.none() | st.text(max_size=3),
    )
    links = draw(st.dictionaries(st.sampled_from(pairs), link)) if pairs else {}
    return Topology(base.slots, draw(link), links)


@given(linked_topologies())
def test_json_gives_the_same_topology_and_the_same_text(topology: Topology) -> None:
    text = topology_to_json(topology)
    again = topology_from_json(text)
    assert again == topology
    assert [s.spec.source for s in again.slots] == [s.spec.source for s in topology.slots]
    assert topology_to_json(again) == text
    assert topology_from_json(topology_to_json(topology, indent=None)) == topology


def test_json_keeps_sources_queues_and_unequal_devices() -> None:
    topology = islands("2xH100-80GB,2xL4", 2, "nvlink4", "host")
    again = topology_from_json(topology_to_json(topology))
    assert again == topology
    assert again.slots[3].spec.source == DeviceSpec.named("L4").source
    assert len(json.loads(topology_to_json(topology))["specs"]) == 2


def test_json_keeps_both_ways_to_use_slots() -> None:
    share = DeviceSpec("half", {"float32": 1e9}, 1e9)
    alone = DeviceSpec("all", {"float32": 2e9}, 2e9)
    slots = tuple(Slot(index, "cpu", spec=share, alone=alone) for index in range(2))
    topology = Topology(slots, None, hand_over_s=1e-5)
    text = topology_to_json(topology)
    again = topology_from_json(text)
    assert again == topology
    assert again.in_turns() == topology.in_turns()
    assert [spec["name"] for spec in json.loads(text)["specs"]] == ["half", "all"]


def test_a_file_from_before_there_were_two_ways_is_read() -> None:
    content = json.loads(topology_to_json(uniform("2xT4", "pcie3")))
    del content["hand_over_s"]
    for slot in content["slots"]:
        del slot["alone"]
    assert topology_from_json(json.dumps(content)) == uniform("2xT4", "pcie3")


def test_json_of_links_does_not_depend_on_their_order() -> None:
    links = {(0, 1): "pcie3", (1, 0): "host"}
    turned = dict(reversed(links.items()))
    assert topology_to_json(custom("2xT4", links)) == topology_to_json(custom("2xT4", turned))


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(topology_to_json(custom("2xT4", {(0, 1): "pcie3"}, otherwise="host")))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(format=2), "format"),
        (lambda c: c.pop("slots"), "slots: Field required"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["slots"][0].update(spec=1), r"slots\[0\].spec .* 1 specs; found 1"),
        (lambda c: c["slots"][0].update(spec=-1), r"slots\[0\].spec"),
        (lambda c: c["slots"][0].update(spec=True), "slots.0.spec"),
        (lambda c: c["slots"][1].update(alone=1), r"slots\[1\].alone .* 1 specs; found 1"),
        (lambda c: c.update(hand_over_s=-1), "hand_over_s must"),
        (lambda c: c["slots"][1].update(memory_bytes=-1), r"slots\[1\].memory_bytes must"),
        (lambda c: c["slots"][1].update(memory_bytes="1"), "slots.1.memory_bytes"),
        (lambda c: c["specs"][0].update(memory_bytes_per_s=0), "'T4': memory_bytes_per_s must"),
        (lambda c: c["specs"][0]["flops_per_s"].update(float32=math.nan), "float32"),
        (lambda c: c["specs"][0].update(flops_per_s={}), "at least one dtype"),
        (lambda c: c["default_link"].update(latency_s=-1), "latency_s must"),
        (lambda c: c["default_link"].update(bytes_per_s=False), "default_link.bytes_per_s"),
        (lambda c: c["links"][0].update(source=2), r"slots 0 to 1; found \(2, 1\)"),
        (lambda c: c["links"].append(c["links"][0]), r"pair \(0, 1\) twice"),
    ],
)
def test_json_that_cannot_be_is_refused(
    change: Callable[[dict[str, Any]], object], match: str
) -> None:
    with pytest.raises(DeviceSpecError, match=match):
        topology_from_json(changed(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}"])
def test_text_that_is_no_topology_is_refused(text: str) -> None:
    with pytest.raises(DeviceSpecError, match="expected a topology as JSON"):
        topology_from_json(text)


def test_connected_topologies_pass() -> None:
    for topology in (uniform("4xT4", "pcie3"), ring("3xT4", "pcie3"), uniform("T4", None)):
        check_connected(topology)
    check_connected(ring("6xT4", "pcie3"), directly=False)


@pytest.mark.parametrize("directly", [True, False])
@given(topology=linked_topologies())
def test_connected_as_by_the_closure_of_the_links(directly: bool, topology: Topology) -> None:
    # Warshall's transitive closure.
    slots = range(len(topology.slots))
    direct = {
        (i, j)
        for i in slots
        for j in slots
        if topology.shares_device(i, j) or topology.link(i, j) is not None
    }
    closed = set(direct)
    for k in slots:
        closed |= {(i, j) for i in slots for j in slots if {(i, k), (k, j)} <= closed}
    missing = len(slots) ** 2 - len(direct if directly else closed)
    if not missing:
        check_connected(topology, directly=directly)
        return
    with pytest.raises(DeviceSpecError) as caught:
        check_connected(topology, directly=directly)
    text = str(caught.value)
    hidden = int(text.split(" and ")[1].split(" more")[0]) if " more." in text else 0
    assert text.count(" -> ") + hidden == missing
    never = len(slots) ** 2 - len(closed)
    assert text.count("(not at all)") <= never <= text.count("(not at all)") + hidden


def test_the_error_says_which_slots_are_cut_off() -> None:
    chain = custom("3xT4", {(0, 1): "pcie3", (1, 0): "pcie3", (1, 2): "pcie3"})
    with pytest.raises(DeviceSpecError) as caught:
        check_connected(chain)
    text = str(caught.value)
    assert "slot 0 (T4:0) -> 2 (T4:2) (only through other slots)" in text
    assert "slot 2 (T4:2) -> 0 (T4:0) (not at all)" in text
    with pytest.raises(DeviceSpecError, match=r"these do not: slot 2 .* -> 0 .*\(not at all\)"):
        check_connected(chain, directly=False)


def test_json_keeps_what_was_measured() -> None:
    factors = {"product": WorkFactors(1.5, 2.0), "exponential": WorkFactors(20.0, None)}
    spec = DeviceSpec(
        "cpu",
        {"float32": 1e11},
        3e10,
        memory_curve=((1_000, 1e-8), (2_000, 3e-8)),
        mapped_bytes=2**25,
        mapped_bytes_per_s=2e9,
        work_factors=factors,
    )
    topology = uniform([spec, spec], "host")
    assert topology_from_json(topology_to_json(topology)) == topology
