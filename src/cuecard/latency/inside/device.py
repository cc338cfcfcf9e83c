"""What this device can do, measured on the spot: matrix products and bytes moved; a datasheet's figures beside."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

DATASHEETS: dict[str, tuple[float, float, float]] = {
    # name as the driver tells it: dense FLOP/s in half precision (of tensor cores), in float32, bytes/s
    "H200": (989.4e12, 66.9e12, 4.8e12),
    "H100 PCIe": (756e12, 51e12, 2.0e12),
    "H100 NVL": (835e12, 60e12, 3.9e12),
    "H100": (989.4e12, 66.9e12, 3.35e12),
    "A100 80GB PCIe": (312e12, 19.5e12, 1.935e12),
    "A100-SXM4-80GB": (312e12, 19.5e12, 2.039e12),
    "A100-SXM4-40GB": (312e12, 19.5e12, 1.555e12),
    "A100-PCIE-40GB": (312e12, 19.5e12, 1.555e12),
    "L40S": (362e12, 91.6e12, 0.864e12),
    "RTX 4090": (165.2e12, 82.6e12, 1.008e12),
    "RTX 3090": (71e12, 35.6e12, 0.936e12),
    "A10": (125e12, 31.2e12, 0.6e12),
    "L4": (121e12, 30.3e12, 0.3e12),
}
"""NVIDIA's datasheets and architecture papers; figures given with sparsity are halved. The first name found counts."""
SOURCE = "NVIDIA's datasheet, dense"

ENOUGH_S = 0.3
"""Each measurement is repeated for so long; the best counts, as a peak is asked for."""
SIDES = {"cpu": (512, 1024), "other": (4096, 8192)}
BYTES = {"cpu": 256 << 20, "other": 1 << 30}


def probe(device: torch.device, dtypes: Iterable[str]) -> dict[str, Any]:
    """Peak FLOP/s and bytes/s in each dtype, as `roofline.devices` reads it."""
    kind = device.type if device.type in SIDES else "other"
    bandwidth = _bandwidth(device, BYTES[kind])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = {}
    for dtype in dict.fromkeys(dtypes):
        flops = max(_products(device, getattr(torch, dtype), side) for side in SIDES[kind])
        measured = {"flops_per_s": flops, "bytes_per_s": max(bandwidth.values())}
        found[dtype] = {"measured": measured, "datasheet": datasheet(name, dtype)}
    return {"device": name, "threads": torch.get_num_threads(), "bandwidth": bandwidth, "dtypes": found}


def datasheet(name: str, dtype: str) -> dict[str, Any] | None:
    """What the maker promises of a device by this name; None of one that is not in the table."""
    found = (sheet for known, sheet in DATASHEETS.items() if re.search(rf"\b{known}\b", name))
    sheet = next(found, None)
    if sheet is None:
        return None
    return {"flops_per_s": sheet[1 if dtype == "float32" else 0], "bytes_per_s": sheet[2], "source": SOURCE}


def _products(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of two square matrices."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    return 2 * side**3 / _fastest(device, lambda: torch.mm(one, other, out=out))


def _bandwidth(device: torch.device, size: int) -> dict[str, float]:
    """Bytes/s of reading, of copying, and of a triad; each byte read and each byte written counts."""
    values = torch.ones(size // 4, device=device)
    others, out = torch.ones_like(values), torch.empty_like(values)
    return {
        "read": size / _fastest(device, values.sum),
        "copy": 2 * size / _fastest(device, lambda: out.copy_(values)),
        "triad": 3 * size / _fastest(device, lambda: torch.add(values, others, alpha=2.0, out=out)),
    }


def _fastest(device: torch.device, work: Callable[[], Any]) -> float:
    work()
    best, until = float("inf"), time.perf_counter() + ENOUGH_S
    while time.perf_counter() < until:
        synchronise(device)
        before = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - before)
    return best


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
