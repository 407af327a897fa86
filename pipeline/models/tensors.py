"""Weights in a Hugging Face folder: read tensor by tensor, written shard by shard, never the whole model at once."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.common.errors import InputError
from pipeline.common.files import follow_umask, naming, write_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class TensorFolder:
    """Lazy access to the safetensors of a model folder.

    Raises InputError where the folder has no weights, an index names a missing file, or a file is truncated.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._open: dict[Path, object] = {}
        if (folder / INDEX).exists():
            try:
                weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{folder / INDEX} is damaged ({error}); download or export the model again"
                ) from error
            self._files = {name: folder / file for name, file in weight_map.items()}
        elif (folder / SINGLE).exists():
            self._files = dict.fromkeys(self._handle(folder / SINGLE).keys(), folder / SINGLE)  # type: ignore[attr-defined]
        else:
            found = (
                ", ".join(sorted(p.name for p in folder.glob("*"))[:8]) or "nothing" if folder.is_dir() else "no folder"
            )
            raise InputError(
                f"{folder} holds no weights: neither {SINGLE} nor {INDEX} (found: {found}). model.path must name a Hugging "
                "Face model folder with safetensors"
            )

    def names(self) -> list[str]:
        return list(self._files)

    def check(self) -> None:
        """Opens every file, which finds truncated ones. Raises InputError naming the first bad file, or a tensor that the
        index lists and its file does not hold."""
        for file in sorted(set(self._files.values())):
            held = set(self._handle(file).keys())
            absent = [name for name, place in self._files.items() if place == file and name not in held]
            if absent:
                raise InputError(
                    f"{file} has no tensor {absent[0]!r}, which {INDEX} promises; download the model again"
                )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from its file's header. Raises KeyError if it is missing."""
        return tuple(self._handle(self._files[name]).get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Data type of a tensor as safetensors calls it (`BF16`), from its file's header."""
        return str(self._handle(self._files[name]).get_slice(name).get_dtype())

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor on the CPU. Raises InputError if it is missing."""
        if name not in self._files:
            raise InputError(
                f"{self.folder} has no tensor {name!r}: its architecture is not the preset's. Use the model= preset that "
                "belongs to this folder"
            )
        return self._handle(self._files[name]).get_tensor(name)  # type: ignore[attr-defined]

    def _handle(self, file: Path):
        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise InputError(f"{file} cannot be read ({error}); download or export the model again") from error
        return self._open[file]


def readable(folder: Path) -> None:
    """Lets all files of `folder`, which transformers wrote, follow the umask."""
    for file in folder.iterdir():
        if file.is_file():
            follow_umask(file)


def write_folder(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], sources: Path, shard_bytes: int = 4 << 30
) -> list[str]:
    """Writes `tensors` to `folder` as safetensors, beside `sources`' config and tokenizer files; returns the file names.

    Shards of `shard_bytes` each have their final names only when all are written. Raises OSError if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.safetensors"), *folder.glob(".shard-*"), folder / INDEX):
        old.unlink(missing_ok=True)
    for file in sources.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name != INDEX and file.suffix != ".bin":
            shutil.copyfile(file, folder / file.name)
    written: list[tuple[Path, list[str]]] = []
    pending: dict[str, torch.Tensor] = {}
    total = size = 0

    def flush() -> None:
        nonlocal pending, size
        path = folder / f".shard-{len(written):05d}"
        with naming(path):
            save_file(pending, path, metadata={"format": "pt"})
        follow_umask(path)  # safetensors makes files that only their owner can read
        written.append((path, list(pending)))
        pending, size = {}, 0

    for name, tensor in tensors:
        # A clone: tensors of one fused parameter share storage, which safetensors refuses.
        pending[name] = tensor.detach().cpu().contiguous().clone()
        size += tensor.nbytes
        total += tensor.nbytes
        if size >= shard_bytes:
            flush()
    if pending or not written:
        flush()
    if len(written) == 1:
        written[0][0].replace(folder / SINGLE)
        return [SINGLE]
    names = [f"model-{i:05d}-of-{len(written):05d}.safetensors" for i in range(1, len(written) + 1)]
    for (path, _), name in zip(written, names, strict=True):
        path.replace(folder / name)
    weight_map = {tensor: name for (_, held), name in zip(written, names, strict=True) for tensor in held}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return names
