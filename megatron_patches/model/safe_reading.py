"""Checkpoint folders are read without running what their pickles ask for (patch `safe-reading`).

A Megatron distributed checkpoint holds pickles in four places: `.metadata`, the object entries of `.distcp` files,
the tensors in them, and `common.pt`. Torch reads the last two with `weights_only`. It unpickles `.metadata`
(torch/distributed/checkpoint/filesystem.py, FileSystemReader.read_metadata) and object entries
(default_planner.py, DefaultLoadPlanner.load_bytes) without limits, so a folder from elsewhere would run commands.
"""

import io
from pathlib import Path, PurePath
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies import torch as strategy
from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from pipeline.common.errors import InputError
from pipeline.common.unpickling import ForeignClass, loads

METADATA = ".metadata"
COMMON = "common.pt"
ALLOWED = (
    *(
        f"torch.distributed.checkpoint.metadata.{name}"
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
    *(
        f"torch.distributed.checkpoint.planner.{name}"
        for name in ("BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
    ),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.distributed.checkpoint.filesystem._StoragePrefix",
    "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata",
    "megatron.core.dist_checkpointing.strategies.torch.MCoreSavePlan",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    *(f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)),
)  # fmt: skip
"""What the metadata that Megatron and torch write is made of."""


def read_metadata(folder: Path) -> Metadata:
    """The metadata of the checkpoint `folder`. Raises InputError naming what is wrong with it."""
    path = folder / METADATA
    try:
        metadata = loads(path.read_bytes(), ALLOWED)
    except FileNotFoundError:
        raise InputError(f"{folder} is no Megatron distributed checkpoint: it has no {METADATA}") from None
    except ForeignClass as error:
        raise InputError(
            f"{path} is refused: it asks for {error}, which no checkpoint needs. Files like this can run commands. "
            "Use a checkpoint from a source that you trust."
        ) from None
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path} is damaged ({type(error).__name__})") from error
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        raise InputError(f"{path} is damaged: it holds no checkpoint metadata")
    for info in metadata.storage_data.values():
        name = PurePath(getattr(info, "relative_path", ""))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path} is refused: it names a file outside its folder, {name}")
    if metadata.storage_meta is None:
        metadata.storage_meta = StorageMeta()
    return metadata


def read_common(folder: Path) -> dict[str, Any]:
    """The common state of the checkpoint `folder`. Raises InputError naming what is wrong with it."""
    path = folder / COMMON
    try:
        common = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{folder} is no Megatron distributed checkpoint: it has no {COMMON}") from None
    except Exception as error:  # a damaged archive raises anything
        raise InputError(_refusal(path, error)) from error
    if not isinstance(common, dict):
        raise InputError(f"{path} is damaged: it holds no state")
    return common


def _refusal(path: Path | str, error: Exception) -> str:
    """What torch's `weights_only` says, in one line."""
    text = str(error)
    for mark in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        if mark in text:
            name = text.partition(mark)[2].split()[0].rstrip(".,")
            return (
                f"{path} is refused: it asks for {name}, which no checkpoint needs. Files like this can run commands."
            )
    return f"{path} is damaged ({type(error).__name__})"


class SafeReader(strategy.CachedMetadataFileSystemReader):
    """Upstream's reader with `read_metadata` in the place of torch's."""

    held: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self.held is None:
            self.held = read_metadata(Path(self.path))
            assert self.held.storage_meta is not None
            self.held.storage_meta.load_id = self.load_id
        return self.held


def _reader(checkpoint_dir: str | Path, cache_metadata: bool = False) -> FileSystemReader:
    return SafeReader(checkpoint_dir)


def _load_bytes(self: Any, read_item: Any, value: io.BytesIO) -> None:
    """DefaultLoadPlanner.load_bytes with `weights_only`."""
    name = read_item.dest_index.fqn
    try:
        loaded = torch.load(value, weights_only=True)
    except Exception as error:  # a damaged archive raises anything
        raise InputError(_refusal(f"the entry {name}", error)) from error
    if self.flatten_state_dict:
        set_element(self.original_state_dict, self.mappings[name], loaded)
    else:
        self.state_dict[name] = loaded


def install() -> None:
    """Puts the safe readers in upstream's places. Idempotent."""
    strategy._get_filesystem_reader = _reader
    strategy.MCoreLoadPlanner.load_bytes = _load_bytes
    TorchCommonLoadStrategy.load_common = lambda self, checkpoint_dir: read_common(Path(checkpoint_dir))


install()
