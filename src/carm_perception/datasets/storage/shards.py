# SPDX-License-Identifier: Apache-2.0
"""Parquet shards whose image columns Hugging Face ``datasets`` reads as images, written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import CarmError, ConfigurationError, ImageError
from carm_core.imaging.display import picture_size

ROW_GROUP = 16
"""Rows that are read together: few, so that training can read rows in any order."""
MOST_UNPACKED = 50
"""Most times that a shard unpacks to its own size: its images are compressed already."""
SMALLEST_ROW_BYTES = 32
LONGEST_PX = 4096
_PARTIAL = ".part"

IMAGE, NUMBERS, FLAGS = "image", "numbers", "flags"
"""Types of columns besides those of Parquet: a PNG, a list of float32, a list of bool."""


class StorageError(CarmError):
    """A shard cannot be written: the disk is full, or the folder is not ours."""


def png(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Return a gray image (rows, columns) as a value of an image column."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def schema(fields: Mapping[str, str]) -> Any:
    """Return the arrow schema, with the metadata that ``datasets`` reads.

    Args:
        fields: Column to type: ``string``, ``int32``, ``int64``, ``float32``, ``bool``, or one of the above.
    """
    import pyarrow as pa

    kinds = {
        IMAGE: pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        NUMBERS: pa.list_(pa.float32()),
        FLAGS: pa.list_(pa.bool_()),
        "bool": pa.bool_(),
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
    }
    features = {name: _feature(kind) for name, kind in fields.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, kinds[kind]) for name, kind in fields.items()], metadata=metadata)


def _feature(kind: str) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if kind in (NUMBERS, FLAGS):
        dtype = "float32" if kind == NUMBERS else "bool"
        return {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "List"}
    return {"dtype": kind, "_type": "Value"}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Any) -> None:
    """Write a shard under another name, then move it into place.

    Args:
        path: The shard.
        rows: Its rows.
        columns: From ``schema``.

    Raises:
        StorageError: It cannot be written; nothing is left behind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}{_PARTIAL}")
    try:
        table = pa.Table.from_pylist(list(rows), schema=columns)
        pq.write_table(table, temporary, compression="none", row_group_size=ROW_GROUP)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(storage_message(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def storage_message(path: Path, error: OSError) -> str:
    """Return one line for a failure to write."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "the disk is full" if full else (os.strerror(error.errno) if error.errno else str(error).splitlines()[0])
    return f"cannot write {path}: {why}; finished shards are kept, and the same command continues from them"


def remove_abandoned(folder: Path) -> None:
    """Delete incomplete files of processes of this machine that no longer run."""
    import psutil

    for path in folder.glob(f"*.{socket.gethostname()}.*{_PARTIAL}"):
        process = path.suffixes[-2].removeprefix(".")
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)


def open_shard(path: Path) -> Any:
    """Open a shard (``pyarrow.parquet.ParquetFile``), unless a few kilobytes of it stand for gigabytes.

    Raises:
        ConfigurationError: It is damaged, or promises far more than its size.
    """
    import pyarrow.parquet as pq

    try:
        shard, size = pq.ParquetFile(path), path.stat().st_size
        groups = [shard.metadata.row_group(number) for number in range(shard.metadata.num_row_groups)]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read shard {path}: {str(error).splitlines()[0]}") from error
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > MOST_UNPACKED * size or shard.metadata.num_rows * SMALLEST_ROW_BYTES > size:
        raise ConfigurationError(
            f"cannot read shard {path}: {size} bytes promise {shard.metadata.num_rows} images and {unpacked} bytes"
        )
    return shard


def decoded(content: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the gray values (rows, columns) of an image in a shard.

    Args:
        content: PNG or JPEG.
        path: The shard, for errors.

    Raises:
        ConfigurationError: It is no image, or too large.
    """
    import cv2

    try:
        picture_size(content, ("PNG", "JPEG"), LONGEST_PX)
        gray = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (ImageError, cv2.error) as error:
        raise ConfigurationError(f"cannot read shard {path}: {str(error).splitlines()[0]}") from error
    if gray is None:
        raise ConfigurationError(f"cannot read shard {path}: an image is damaged")
    return np.asarray(gray, np.uint8)
