# SPDX-License-Identifier: Apache-2.0
"""From stored line integrals to model input: random view, tissue, exposure, display and disturbance, in batches.

Gray values are 0 to 1, bright where attenuation is high, display orientation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from carm_core.landmarks import ROWS
from carm_perception.networks.vision_language_model import IMAGE_PX

WATER_PER_MM = 0.02
"""Attenuation of water near 70 keV, 1/mm."""

WIDE_ROTATION = 0.2
"""Part of the views that is rotated by up to 25 degrees in its plane."""
MOTION_BLUR = 0.08
"""Part of the views that is blurred along a line."""
COARSE = 0.12
"""Part of the views that comes from a detector of half the resolution."""
DEFORMED = 0.7
"""Part of the views whose anatomy is deformed smoothly, as bodies differ."""
DEFORMATION_PX = 4.0
"""Largest standard deviation of that deformation, pixels of the model's input."""
BOWEL = 0.6
"""Part of the views of an abdomen that show more gas and stool than the body has: generated bodies have little."""
TUBES, DISKS = 6, 9
"""Pieces of bowel in such a view, and disks that each is made of."""
INVERTED = 0.12
"""Part of the views that is shown with bright air and dark bone."""


@dataclass(frozen=True)
class Batch:
    """Stored views.

    Attributes:
        soft: Line integrals of soft tissue (batch, stored, stored), mm of water.
        bone: Line integrals of bone excess (batch, stored, stored), mm of water.
        displacement_mm: Landmark displacements (batch, 48, 2), NaN when unknown.
        mm_per_px: Pixel spacing at isocenter depth (batch,).
    """

    soft: Tensor
    bone: Tensor
    displacement_mm: Tensor
    mm_per_px: Tensor


def _uniform(generator: torch.Generator, batch: int, low: float, high: float) -> Tensor:
    return torch.rand(batch, 1, 1, generator=generator) * (high - low) + low


def _normal(generator: torch.Generator, batch: int, std: float) -> Tensor:
    return torch.randn(batch, 1, 1, generator=generator) * std


def _chance(generator: torch.Generator, batch: int, probability: float) -> Tensor:
    return (torch.rand(batch, 1, 1, generator=generator) < probability).float()


def center_crop(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the detector's field out of the stored views.

    Returns:
        Soft tissue and bone (batch, 128, 128), and displacements.
    """
    margin = (batch.soft.shape[-1] - IMAGE_PX) // 2
    inner = slice(margin, margin + IMAGE_PX)
    return batch.soft[:, inner, inner], batch.bone[:, inner, inner], batch.displacement_mm


def random_crop(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Shift, rotate, zoom and deform the field over the stored views; displacements follow.

    Returns:
        As ``center_crop``.
    """
    count, stored = batch.soft.shape[0], batch.soft.shape[-1]
    margin = (stored - IMAGE_PX) / 2
    shift = (torch.randn(count, 2, generator=generator) * 9.0).clamp(-margin * 0.9, margin * 0.9)
    wide = torch.rand(count, generator=generator) < WIDE_ROTATION
    degrees = torch.where(wide, 14.0, 5.0)
    angle = (torch.randn(count, generator=generator) * torch.deg2rad(degrees)).clamp(-0.45, 0.45)
    zoom = 1 + torch.randn(count, generator=generator).clamp(-2, 2) * 0.035
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    scale = IMAGE_PX / stored
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = cos * scale, -sin * scale, shift[:, 0] * 2 / stored
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = sin * scale, cos * scale, shift[:, 1] * 2 / stored
    field = _deformation(count, generator)
    identity = torch.eye(2, 3).expand(count, 2, 3)
    grid = functional.affine_grid(identity, [count, 2, IMAGE_PX, IMAGE_PX], align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1) * (2 / IMAGE_PX)
    grid = torch.einsum("nyxi,noi->nyxo", grid, theta[:, :, :2]) + theta[:, None, None, :, 2]
    both = torch.stack([batch.soft, batch.bone], dim=1)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)
    right_down = torch.stack([shift[:, 0], -shift[:, 1]], dim=1) * batch.mm_per_px[:, None]
    centered = batch.displacement_mm - right_down[:, None]
    right, up = centered[..., 0], centered[..., 1]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    turned = torch.stack([cos * right - sin * up, sin * right + cos * up], dim=-1)
    marks = _deformed(turned * zoom[:, None, None], field, batch.mm_per_px)
    return moved[:, 0], moved[:, 1], marks


def _deformation(count: int, generator: torch.Generator) -> Tensor:
    """Smooth displacements (batch, 2, 128, 128), right and down, pixels: where each pixel is taken from."""
    coarse = torch.randn(count, 2, 5, 5, generator=generator)
    fine = functional.interpolate(coarse, size=(IMAGE_PX, IMAGE_PX), mode="bicubic", align_corners=True)
    std = _uniform(generator, count, 0.0, DEFORMATION_PX) * _chance(generator, count, DEFORMED)
    return fine * std[:, None]


def _deformed(marks_mm: Tensor, field: Tensor, mm_per_px: Tensor) -> Tensor:
    """Where landmarks (batch, 48, 2) lie after a deformation: the points that are taken from where they lay."""
    flip = marks_mm.new_tensor([1.0, -1.0])
    before = marks_mm * flip / mm_per_px[:, None, None]
    after = before
    for _ in range(4):
        places = (after * 2 / IMAGE_PX).nan_to_num(0.0)[:, None]
        moved = functional.grid_sample(field, places, mode="bilinear", padding_mode="border", align_corners=False)
        after = before - moved[:, :, 0].transpose(1, 2)
    return after * flip * mm_per_px[:, None, None]


def with_bowel(soft: Tensor, marks_mm: Tensor, mm_per_px: Tensor, generator: torch.Generator) -> Tensor:
    """Return line integrals of soft tissue (batch, 128, 128) with pieces of colon in front of the abdomen.

    Each piece is a row of overlapping disks (haustra). It holds gas, stool with bubbles, or both.

    Args:
        soft: Line integrals, mm of water.
        marks_mm: Landmarks (batch, 48, 2), right and up, mm: the pieces lie between the diaphragm and the pelvis.
        mm_per_px: Pixel spacing (batch,).
        generator: Source of randomness.
    """
    top = marks_mm[:, [ROWS[12], ROWS[13]]].mean(1)
    spine = marks_mm[:, ROWS[120]] - top
    length = spine.norm(dim=1)
    middle = (top + 0.7 * spine).norm(dim=1)
    shown = middle < length + 60.0  # mm; without these landmarks: not a number, which is not less
    chosen = (shown & (torch.rand(len(soft), generator=generator) < BOWEL)).nonzero()[:, 0]
    count = len(chosen)
    if not count:
        return soft
    down = spine[chosen, None] / length[chosen, None, None]
    side = torch.stack([-down[..., 1], down[..., 0]], dim=-1)
    shape = (count, TUBES, 1)

    def uniform(low: float, high: float, size: tuple[int, ...] = shape) -> Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    radius = uniform(8, 26)
    turn = uniform(0, 2 * math.pi) + torch.cumsum(torch.randn(count, TUBES, DISKS, generator=generator) * 0.35, dim=-1)
    steps = torch.stack([turn.cos(), turn.sin()], dim=-1) * (radius * uniform(0.6, 1.0))[..., None]
    along, across = uniform(0.1, 1.3) * length[chosen, None, None], torch.randn(shape, generator=generator) * 65.0
    start = top[chosen, None] + along * down + across * side
    centers = start[:, :, None] + steps.cumsum(2) - steps[:, :, :1]
    disks = radius * uniform(0.75, 1.2, (count, TUBES, DISKS))
    axis_mm = (torch.arange(IMAGE_PX) - (IMAGE_PX - 1) / 2) * mm_per_px[chosen, None, None]
    half = soft.new_zeros(count, TUBES, IMAGE_PX, IMAGE_PX)
    for disk in range(DISKS):
        right = axis_mm[:, :, None] - centers[:, :, disk, :1, None]
        up = -axis_mm[..., None] - centers[:, :, disk, 1:, None]
        square = (disks[:, :, disk, None, None] ** 2 - right**2 - up**2).clamp_min(0)
        torch.maximum(half, square.sqrt(), out=half)  # of the thickness of a sphere, mm
    coarse = torch.randn(count, 1, 44, 44, generator=generator)
    bubbles = functional.interpolate(coarse, size=(IMAGE_PX, IMAGE_PX), mode="bicubic", align_corners=True).clamp_min(0)
    is_gas = (uniform(0, 1) < 0.55).float()[..., None]
    gas = half * (is_gas * uniform(0.5, 2.0)[..., None] + (1 - is_gas) * bubbles * uniform(0.0, 0.8)[..., None])
    stool = half * (1 - is_gas) * uniform(0.0, 0.5)[..., None]
    return soft.index_add(0, chosen, (stool - gas).sum(1)).clamp_min(0)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Return the Gaussian blur of (batch, rows, columns), borders repeated."""
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[:, None], (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]


def wide_blur(image: Tensor, sigma: float) -> Tensor:
    """Return the nearly ``blur`` for a wide kernel, on an eighth of the resolution."""
    small = blur(functional.avg_pool2d(image[:, None], 8)[:, 0], sigma / 8)
    return functional.interpolate(small[:, None], scale_factor=8, mode="bilinear", align_corners=False)[:, 0]


def low_frequency(generator: torch.Generator, batch: int, cells: int) -> Tensor:
    """Smooth random field (batch, 128, 128) with a grid of ``cells`` squared."""
    coarse = torch.randn(batch, 1, cells, cells, generator=generator)
    return functional.interpolate(coarse, size=(IMAGE_PX, IMAGE_PX), mode="bilinear", align_corners=True)[:, 0]


def window(image: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map quantiles ``low`` and ``high`` (batch, 1, 1) of each image to 0 and 1, clipped."""
    ordered = image.flatten(1)[:, ::23].sort(dim=1).values
    last = ordered.shape[1] - 1

    def quantile(fraction: Tensor) -> Tensor:
        index = (fraction.flatten() * last).round().long().clamp(0, last)
        return ordered.gather(1, index[:, None])[:, :, None]

    bottom, top = quantile(low), quantile(high)
    return ((image - bottom) / (top - bottom).clamp_min(1e-3)).clamp(0, 1)


def _floor(logarithmic: Tensor, depth: Tensor) -> Tensor:
    """Raise what lies more than ``depth`` (batch, 1, 1) below the median: bare beam around the patient."""
    middle = logarithmic.flatten(1)[:, ::23].median(dim=1).values[:, None, None]
    return torch.maximum(logarithmic, middle - depth)


def plain_display(soft: Tensor, bone: Tensor, bone_weight: float = 1.5) -> Tensor:
    """Return the display image without any randomness, as the X-ray system windows it."""
    count = soft.shape[0]
    attenuation = _floor(WATER_PER_MM * (soft + bone_weight * bone), torch.full((count, 1, 1), 2.5))
    return window(attenuation, torch.full((count, 1, 1), 0.005), torch.full((count, 1, 1), 0.995))


def random_display(soft: Tensor, bone: Tensor, generator: torch.Generator) -> Tensor:
    """Return the random tissue, exposure and display processing of (batch, 128, 128).

    Returns:
        Gray values 0 to 1.
    """
    count = soft.shape[0]
    draw = generator
    weight = torch.exp(_uniform(draw, count, math.log(0.7), math.log(2.6)))
    bone = _bone_texture(bone, draw)
    attenuation = WATER_PER_MM * (soft * _uniform(draw, count, 0.75, 1.3) + weight * bone)
    for cells, std in ((4, 0.08), (9, 0.03), (20, 0.012), (48, 0.01)):
        field = low_frequency(draw, count, cells)
        attenuation = attenuation + field * _uniform(draw, count, 0.0, std) * attenuation.mean((1, 2), keepdim=True)
    attenuation = _obstacles(attenuation, draw)
    signal = torch.exp(-attenuation.clamp_min(0))
    quanta = torch.exp(_uniform(draw, count, math.log(4e4), math.log(1e7)))
    noise = torch.randn(signal.shape, generator=draw) * (signal / quanta).sqrt()
    scatter = wide_blur(signal, 12.0) * _uniform(draw, count, 0.0, 0.5)
    signal = (signal + noise + scatter).clamp_min(1e-5)
    logarithmic = -signal.log()
    logarithmic = _floor(logarithmic, _uniform(draw, count, 1.3, 5.0))
    linear = 1 - signal / signal.amax((1, 2), keepdim=True)
    bottom = logarithmic.amin((1, 2), keepdim=True)
    logarithmic = (logarithmic - bottom) / (logarithmic.amax((1, 2), keepdim=True) - bottom).clamp_min(1e-3)
    mix = _chance(draw, count, 0.92)
    image = mix * logarithmic + (1 - mix) * linear.clamp_min(0) ** _uniform(draw, count, 0.5, 2.5)
    soft_copy = functional.avg_pool2d(image[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    amount = _uniform(draw, count, -1.0, 1.0) * _chance(draw, count, 0.6)
    image = image + amount * (image - soft_copy)
    local = wide_blur(image, 10.0)
    image = image - local * _uniform(draw, count, 0.0, 0.75) * _chance(draw, count, 0.4)
    image = window(image, _uniform(draw, count, 0.0, 0.06), _uniform(draw, count, 0.93, 1.0))
    image = image ** torch.exp(_normal(draw, count, 0.3))
    image = _unsharp(image, draw)
    image = image + torch.randn(image.shape, generator=draw) * _uniform(draw, count, 0.0, 0.03)
    inverted = _chance(draw, count, INVERTED)
    image = image + inverted * (1 - 2 * image)
    return _collimate(image, draw).clamp(0, 1)


def _bone_texture(bone: Tensor, draw: torch.Generator) -> Tensor:
    """Vary the density of bones and the strength of their cortex, as in real people."""
    count = bone.shape[0]
    uneven = _uniform(draw, count, 0.0, 0.35) * _chance(draw, count, 0.6)
    shell = _uniform(draw, count, -0.8, 1.0) * _chance(draw, count, 0.6)
    textured = bone * torch.exp(uneven * low_frequency(draw, count, 6))
    return (textured + shell * (textured - blur(textured, 2.0))).clamp_min(0.0)


def _unsharp(image: Tensor, draw: torch.Generator) -> Tensor:
    """Blur some images along a random line of up to 11 pixels, show some at half the resolution."""
    count = image.shape[0]
    moving = (torch.rand(count, generator=draw) < MOTION_BLUR).nonzero()[:, 0]
    if len(moving):
        angle = torch.rand(len(moving), 1, generator=draw) * math.pi
        half = 1 + 4.5 * torch.rand(len(moving), 1, generator=draw)
        along = torch.linspace(-1, 1, 9)[None] * half
        kernel = torch.zeros(len(moving), 11, 11)
        place = torch.arange(len(moving))[:, None], (5 + along * angle.sin()).round().long()
        kernel.index_put_((*place, (5 + along * angle.cos()).round().long()), torch.tensor(1 / 9), accumulate=True)
        padded = functional.pad(image[moving][None], (5,) * 4, mode="replicate")
        image = image.index_put((moving,), functional.conv2d(padded, kernel[:, None], groups=len(moving))[0])
    coarse = (torch.rand(count, generator=draw) < COARSE).nonzero()[:, 0]
    if len(coarse):
        small = functional.avg_pool2d(image[coarse][:, None], 2)
        large = functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        image = image.index_put((coarse,), large[:, 0])
    return image


def _axes() -> tuple[Tensor, Tensor]:
    axis = (torch.arange(IMAGE_PX) - (IMAGE_PX - 1) / 2) / (IMAGE_PX / 2)
    return axis[None, :, None], axis[None, None, :]


def _obstacles(attenuation: Tensor, draw: torch.Generator) -> Tensor:
    """Add bars, boxes, disks and rings of random density: tubes, wires, electrodes, instruments, table edges."""
    count = attenuation.shape[0]
    rows, columns = _axes()
    for probability, width_low, width_high, density in ((0.3, 0.008, 0.03, 1.5), (0.2, 0.05, 0.4, 0.5)):
        angle = _uniform(draw, count, 0, math.pi)
        along = columns * angle.cos() + rows * angle.sin() - _uniform(draw, count, -1, 1)
        across = rows * angle.cos() - columns * angle.sin() - _uniform(draw, count, -1, 1)
        width, length = _uniform(draw, count, width_low, width_high), _uniform(draw, count, 0.1, 1.5)
        inside = (along.abs() < width) & (across.abs() < length)
        amount = _uniform(draw, count, -0.3, 1.0) * density * _chance(draw, count, probability)
        attenuation = attenuation + inside * amount
    for _ in range(2):
        right, down = _uniform(draw, count, -1, 1), _uniform(draw, count, -1, 1)
        distance = ((columns - right) ** 2 + (rows - down) ** 2).sqrt()
        outer, inner = _uniform(draw, count, 0.01, 0.12), _uniform(draw, count, -0.8, 0.8)
        inside = (distance < outer) & (distance > outer * inner)
        attenuation = attenuation + inside * _uniform(draw, count, 0.3, 2.5) * _chance(draw, count, 0.15)
    return attenuation


def _collimate(image: Tensor, draw: torch.Generator) -> Tensor:
    """Cover the sides or the corners with a constant gray in some images."""
    count = image.shape[0]
    rows, columns = _axes()
    sides = [1 - _uniform(draw, count, 0.0, 0.35) * _chance(draw, count, 0.4) for _ in range(4)]
    visible = (columns < sides[0]) & (columns > -sides[1]) & (rows < sides[2]) & (rows > -sides[3])
    radius = 1 + 0.45 * _uniform(draw, count, 0, 1) + 10 * _chance(draw, count, 0.85)
    visible = visible & ((rows**2 + columns**2) < radius**2)
    apply = _chance(draw, count, 0.35).bool()
    gray = _chance(draw, count, 0.5) * _uniform(draw, count, 0.0, 1.0)
    return torch.where(visible | ~apply, image, gray.expand_as(image))
