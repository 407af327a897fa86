"""Run by test_memory.py on real ranks: peaks of the tensors of a warm-up's optimizer step, of DeepSpeed's engine. Arguments:
cases.json, a list of Settings with the bucket's elements; result.json, to which each rank's number is added."""

import gc
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from live_bytes import LiveBytes

from pipeline.models.folders import random_model
from pipeline.models.partitioned import load_partitioned
from pipeline.settings import Settings
from pipeline.sft import engine as zero
from pipeline.sft.packing import PackedRows
from pipeline.stage import StageRun
from stages.sft import train_step, trainable


class DeviceBytes(LiveBytes):
    """Without `meta` tensors, of which ZeRO keeps one for each parameter."""

    def _made(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type != "meta":
            super()._made(storage)


def measure(settings: Settings, bucket: int, folder: Path) -> dict[str, int]:
    """Bytes between steps, and at the peak of the second step."""
    model, sft, world = settings.model, settings.sft, dist.get_world_size()
    bf16 = model.dtype == "bf16"
    accumulation = zero.accumulation_steps(sft.batch_size // world, sft.micro_batch_size)
    config = zero.engine_config(sft, accumulation, bf16)
    config["zero_optimization"]["reduce_bucket_size"] = bucket
    dtype = torch.bfloat16 if bf16 else torch.float32
    with DeviceBytes() as live:
        if sft.zero_stage == 3:
            if dist.get_rank() == 0:
                random_model(model, model.vocab_size, {}, seed=1).save_pretrained(str(folder))
            dist.barrier()
            built = load_partitioned(folder, config, dtype)
        else:
            built = random_model(model, model.vocab_size, {}, seed=1).to(dtype)
        built.config._attn_implementation = "sdpa"
        engine = zero.build_engine(trainable(built, sft), sft, config)
        del built
        run = StageRun(settings=None, root=folder, rank=dist.get_rank(), world_size=world)  # type: ignore[arg-type]
        tokens = torch.randint(model.vocab_size, (sft.batch_size, sft.sequence_length))
        rows = PackedRows(
            tokens, tokens, torch.arange(sft.sequence_length).expand(len(tokens), -1), torch.ones_like(tokens)
        )
        train_step(engine, rows, 1e-4, run, accumulation)
        gc.collect()
        between = live.peak = live.now
        train_step(engine, rows, 1e-4, run, accumulation)
        return {"between": between, "peak": live.peak}


def main(cases: Path, result: str) -> None:
    torch.set_num_threads(1)
    zero.connect(5)
    found = []
    for number, (settings, bucket) in enumerate(json.loads(cases.read_text())):
        found.append(measure(Settings.model_validate(settings), bucket, cases.parent / f"model{number}"))
        gc.collect()
    Path(f"{result}.{dist.get_rank()}").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
