# SPDX-License-Identifier: Apache-2.0
"""The steps of ``gpu_check.sh``: one each time, its figures into a JSON file."""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_TOLERANCE = 0.02
"""Largest mean difference of two renderers, of the largest line integral."""


def renderer(device: str, seconds: float) -> dict[str, Any]:
    """Agreement with the CPU renderer, and images per second."""
    from carm_core.imaging.projection import Detector
    from carm_perception.datasets.views import make_view
    from carm_sim.drr import Renderer
    from carm_sim.drr.cuda import NanodrrRenderer, cuda_available
    from carm_sim.phantom import generate_phantom

    side = 512 if device == "cuda" else 128
    body = generate_phantom(1, 2.0 if device == "cuda" else 6.0)
    detector = Detector(side, side, 298.0 / side)
    views = [
        make_view(body.landmarks_mm[11], (angle, 0.5 * angle, 0.0), detector, (1020.0, 530.0))
        for angle in (-20.0, 0.0, 15.0)
    ]
    usual = Renderer(body.volume, threads=2)
    if device == "cuda" and not cuda_available():
        raise RuntimeError("nanodrr is not installed: pip install nanodrr")
    other = (
        NanodrrRenderer(body.volume, device="cuda") if device == "cuda" else Renderer(body.volume, storage="float32")
    )
    apart = []
    for view in views:
        one, two = usual.material_integrals(view)[0], other.material_integrals(view)[0]
        apart.append(float(np.abs(one - two).mean() / one.max()))
    if max(apart) > REFERENCE_TOLERANCE:
        raise RuntimeError(f"the images are {max(apart):.3f} apart")
    figures: dict[str, Any] = {"side_px": side, "mean_difference": max(apart)}
    for name, one in (("cpu", usual), (device if device == "cuda" else "float32", other)):
        figures[f"{name}_images_per_s"] = _rate(partial(one.material_integrals, views[1]), seconds / 4)
    return figures


def latency(device: str, seconds: float) -> dict[str, Any]:
    """Answers of the compact localizer, which runs on the CPU of this machine, and its network on the device."""
    import torch

    from carm_core.imaging.frame import XrayFrame
    from carm_core.localization import Protocol, Query
    from carm_perception.localizers.compact import CompactLocalizer
    from carm_perception.networks.landmark_reader import load_localizer
    from carm_perception.networks.model_folder import COMPACT_FOLDER
    from carm_perception.networks.preprocessing import FIELD_MM

    localizer = CompactLocalizer()
    rng = np.random.default_rng(0)
    times: list[float] = []
    end = time.monotonic() + seconds / 2
    while time.monotonic() < end or len(times) < 3:
        image = rng.integers(0, 255, (256, 256)).astype(np.uint8)
        start = time.perf_counter()
        localizer.localize(XrayFrame(image, FIELD_MM / 256, 0.0), Query(Protocol.POINTING, 11))
        times.append(time.perf_counter() - start)
    network = load_localizer(COMPACT_FOLDER).to(device).eval()
    gray = torch.rand(1, 128, 128, device=device)

    def once() -> None:
        with torch.inference_mode():
            network(gray)
        _wait(device)

    return {
        "answers": len(times),
        "p50_ms": 1000 * float(np.median(times[1:])),
        "p99_ms": 1000 * float(np.percentile(times[1:], 99)),
        f"{device}_network_per_s": _rate(once, seconds / 4),
    }


def nf4(device: str, seconds: float) -> dict[str, Any]:
    """A tiny Qwen2.5-VL with random weights, loaded in 4 bits, answers both questions about body parts."""
    from carm_perception.classifiers.registry import make_classifier
    from carm_perception.localizers.registry import LocalizerOptions
    from carm_perception.protocols.body_parts import PartForm

    with tempfile.TemporaryDirectory() as folder:
        tiny = runpy.run_path(str(ROOT / "test/carm_perception/tiny_models.py"))
        model = tiny["build"]("Qwen2_5_VLForConditionalGeneration", Path(folder) / "tiny")
        options = LocalizerOptions(device=device, load_in_4bit=device == "cuda")
        start = time.monotonic()
        classifier = make_classifier(str(model), options)
        loaded = time.monotonic() - start
        image = np.zeros((128, 128), np.uint8)
        replies = [classifier.classify(image, form) for form in PartForm]
        classifier.close()
    failed = [reply.message for reply in replies if reply.error]
    if failed:
        raise RuntimeError(failed[0])
    return {"loaded_s": loaded, "four_bits": device == "cuda", "answers": [reply.answer for reply in replies]}


def speed(device: str, seconds: float) -> dict[str, Any]:
    """Training steps of the landmark network on random images."""
    import torch

    from carm_perception.networks.landmark_network import LandmarkLocalizer

    batch = 256 if device == "cuda" else 2
    network = LandmarkLocalizer().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    gray = torch.rand(batch, 128, 128, device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            place, scale, cells = network(gray)
        optimizer.zero_grad(set_to_none=True)
        (place.float().square().mean() + scale.float().mean() + cells.float().logsumexp(-1).mean()).backward()
        optimizer.step()
        _wait(device)

    return {"batch": batch, "images_per_s": batch * _rate(step, seconds / 2)}


def training(device: str, seconds: float) -> dict[str, Any]:
    """A data set of generated bodies for a third of the time, then the classifier of body parts on it."""
    import os

    from carm_perception.datasets.storage.dataset import BODY_PART_INTEGRALS, DatasetSpec, generate
    from carm_perception.training.body_part.recipe import PartOptions, train
    from carm_perception.training.body_part.views import GeneratedViews

    workers = max(1, min(os.cpu_count() or 1, 16))
    patients = max(1, int(seconds / 3 / 25 * workers)) if device == "cuda" else 1
    views = 40 if device == "cuda" else 3
    with tempfile.TemporaryDirectory() as folder:
        data, start = Path(folder), time.monotonic()
        for split, count in (("train", patients), ("validation", 1)):
            generate(data, DatasetSpec(split, count, views, 1, format=BODY_PART_INTEGRALS), workers, progress=False)
        made = time.monotonic() - start
        left = max(5.0, 0.8 * seconds - made)
        options = PartOptions(left, batch=256 if device == "cuda" else 4, device=device)
        record = train(GeneratedViews(data, "train"), GeneratedViews(data, "validation"), options, data, data / "model")
    return {
        "images": patients * views,
        "made_s": made,
        **record,
        "images_per_s": record["steps"] * options.batch / left,
    }


STEPS: dict[str, Callable[[str, float], dict[str, Any]]] = {
    one.__name__: one for one in (renderer, latency, nf4, speed, training)
}


def _rate(once: Callable[[], Any], seconds: float) -> float:
    """Return how often per second something is done, after a first time that does not count."""
    once()
    count, start = 0, time.monotonic()
    while count < 2 or time.monotonic() - start < seconds:
        once()
        count += 1
    return count / (time.monotonic() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def summary(folder: Path) -> int:
    """Put the figures of all steps into ``gpu_check.json``; return 1 when one of them failed."""
    steps = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in STEPS if (folder / f"{name}.json").exists()
    }
    missing = [name for name in STEPS if not steps.get(name, {}).get("ok")]
    content = {"ok": not missing, "failed": missing, "machine": _machine(), "steps": steps}
    (folder / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"gpu_check: {len(STEPS) - len(missing)} of {len(STEPS)} steps passed; {folder / 'gpu_check.json'}")
    return int(bool(missing))


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"gpu": gpu, "torch": torch.__version__}


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=(*STEPS, "has-gpu", "summary"))
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    if args.step == "has-gpu":
        import torch

        return int(not torch.cuda.is_available())
    if args.step == "summary":
        return summary(args.out)
    start = time.monotonic()
    try:
        figures: dict[str, Any] = {"ok": True} | STEPS[args.step](args.device, args.seconds)
    except Exception as error:  # whatever it is, the other steps shall run
        figures = {"ok": False, "error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    figures["took_s"] = round(time.monotonic() - start, 1)
    (args.out / f"{args.step}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{args.step}: {json.dumps(figures)}")
    return int(not figures["ok"])


if __name__ == "__main__":
    raise SystemExit(main())
