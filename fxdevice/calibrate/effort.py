"""How long a calibration takes: every constant that costs time or memory."""

from __future__ import annotations

from dataclasses import dataclass

from fxdevice.calibrate.work_cases import CASES

__all__ = ["Effort"]

_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. The defaults take some seconds a device and half a second a pair.

    Attributes:
        num_repeats: Times that each thing is measured after it ran once.
        smallest_side: Rows of the smallest square matrices that are multiplied.
        largest_side: Rows of the largest ones.
        longest_product_s: Matrices double while the product of twice as many rows should take
            less than this many seconds.
        sum_bytes: Sizes of the tensors whose sums show how fast memory is by size, growing.
        mapped_bytes: Size of a tensor for which an allocator may fetch memory from the system.
        work_kinds: Kinds of work to measure, of those in `fxdevice.calibrate.work_cases`.
        cold_bytes: Weights that are read in turn before the first are read again; more than a cache
            holds.
        max_copies: Most copies of weights that this takes.
        num_warm: Times in a row that an operation without weights is measured.
        copy_bytes: Size of the copy that measures a device's memory; larger than its caches.
        num_launches: Tiny operations in a row that measure the cost of starting one.
        transfer_bytes: Sizes of the transfers between two devices.
        probe_bytes: Sizes of the transfers whose content is compared; odd ones, because some
            faults concern the last bytes of a block only.
        num_hand_overs: Times that a thread hands over to another one and back.
        num_probes: Times that each of those is sent, with other content each time.
    """

    num_repeats: int = 7
    smallest_side: int = 256
    largest_side: int = 8192
    longest_product_s: float = 0.1
    sum_bytes: tuple[int, ...] = (16 * _KIB, 256 * _KIB, 2 * _MIB, 8 * _MIB, 24 * _MIB)
    mapped_bytes: int = 64 * _MIB
    work_kinds: tuple[str, ...] = tuple(CASES)
    cold_bytes: int = 48 * _MIB
    max_copies: int = 24
    num_warm: int = 4
    copy_bytes: int = 256 * _MIB
    num_launches: int = 200
    num_hand_overs: int = 200
    transfer_bytes: tuple[int, ...] = (4 * _KIB, 64 * _KIB, 1 * _MIB, 4 * _MIB, 16 * _MIB)
    probe_bytes: tuple[int, ...] = (1, 4 * _KIB + 3, 1 * _MIB + 7, 8 * _MIB + 11)
    num_probes: int = 2
