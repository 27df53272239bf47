# SPDX-License-Identifier: Apache-2.0
"""The data card: ``README.md`` of a data set, whose head tells Hugging Face ``datasets`` what there is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_SECTIONS = {
    "integrals": "",
    "xray": "xray-",
    "body-part-integrals": "body-part-integrals-",
    "body-part-xray": "body-part-",
}
_NOBODY = "No image of a real person is in it."
_SPLITS = ("train", "validation", "test")


def write_data_card(folder: Path, beginning: str = "", *, cts: bool = False) -> None:
    """Write the card for what a folder holds.

    Args:
        folder: Folder of the data set.
        beginning: Split that is about to be made, with the prefix of its format.
        cts: Whether it is made from CTs, too.

    Raises:
        OSError: The folder cannot be written.
    """
    present = {
        name: [
            split for split in _SPLITS if prefix + split == beginning or any(folder.glob(f"{prefix}{split}-*.parquet"))
        ]
        for name, prefix in _SECTIONS.items()
    }
    lines = ["---", "license: apache-2.0", "task_categories: [image-text-to-text]", "configs:"]
    for name, splits in present.items():
        if splits:
            lines += [f"- config_name: {name}", "  data_files:"]
            lines += [f"  - {{split: {split}, path: {_SECTIONS[name]}{split}-*.parquet}}" for split in splits]
    cts = cts or any(folder.glob("*-ct-*.parquet"))
    parts = ["card", *(["card_ct"] if cts else []), *(f"card_{name}" for name, splits in present.items() if splits)]
    texts = [
        files("carm_perception.datasets.storage").joinpath(f"{part}.md").read_text(encoding="utf-8") for part in parts
    ]
    if cts:
        texts[0] = texts[0].replace(_NOBODY, "CTs of real patients are beside them, as told below.")
    (folder / "README.md").write_text("\n".join([*lines, "---", *texts]), encoding="utf-8")
