"""The plan's memory of the warm-up, beside the tensors of DeepSpeed's engine on gloo ranks: between steps and at the peak."""

import json
from pathlib import Path

import pytest
from ranks import run_ranks

from pipeline.run.compose import compose
from pipeline.run.rehearsal import rehearse
from pipeline.run.sft_memory import estimate
from pipeline.settings import Settings

SCRIPT = Path(__file__).with_name("memory_ranks.py")
SMALL = [
    "model.num_layers=4", "model.hidden_size=256", "model.ffn_hidden_size=768", "model.num_attention_heads=4",
    "model.num_query_groups=2", "model.head_dim=64", "model.vocab_size=8192",
]  # fmt: skip
"""Five or seven million parameters, half of them for words."""
LARGE = [
    "model.num_layers=12", "model.hidden_size=768", "model.ffn_hidden_size=2304", "model.num_attention_heads=12",
    "model.num_query_groups=6", "model.head_dim=64", "model.vocab_size=16384",
]  # fmt: skip
"""A hundred million parameters, tied."""
UNTIED = "model.tie_word_embeddings=false"
SHORT, LONG = 64, 512
"""Tokens of a row: gradients and states decide the peak, or activations."""


def case(stage: int, dtype: str, ranks: int, *words: str, length: int = SHORT, shape: list[str] = SMALL) -> Settings:
    return compose(
        [
            "stage=sft", "model=tiny", *shape, "model.parameters=none", f"model.dtype={dtype}", f"sft.zero_stage={stage}",
            f"sft.batch_size={2 * ranks}", "sft.micro_batch_size=1", f"sft.sequence_length={length}",
            "model.max_position_embeddings=1024", *words,
        ]
    )  # fmt: skip


def measured_of(folder: Path, cases: list[Settings], ranks: int, bucket: int) -> list[list[dict[str, int]]]:
    """Bytes between steps and at the peak, of each rank and case."""
    (folder / "cases.json").write_text(json.dumps([(found.model_dump(mode="json"), bucket) for found in cases]))
    run_ranks(ranks, SCRIPT, folder / "cases.json", folder / "result.json", timeout=580, env={"DS_ACCELERATOR": "cpu"})
    return [json.loads((folder / f"result.json.{rank}").read_text()) for rank in range(ranks)]


def compare(folder: Path, cases: list[Settings], ranks: int, bucket: int) -> None:
    """Within 5%, of the fullest rank."""
    real = measured_of(folder, cases, ranks, bucket)
    wrong = []
    for number, settings in enumerate(cases):
        planned = estimate(settings, ranks, on_gpu=False, bucket=bucket)
        numbers = {"between": planned.weights + planned.optimizer + planned.between, "peak": planned.peak}
        for name, size in numbers.items():
            measured = max(rank[number][name] for rank in real)
            if abs(size - measured) > 0.05 * measured:
                wrong.append(
                    f"case {number}, ZeRO {settings.sft.zero_stage}, {settings.model.dtype}, {name}: {size} planned,"
                    f" {measured} real, {planned.fullest}"
                )
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
def test_a_step_takes_what_is_planned(tmp_path):
    """Buckets smaller than the model, as with models of more than 500 million parameters."""
    kept = "sft.gradient_checkpointing=false"
    cases = [
        *(case(stage, dtype, 2, UNTIED) for stage in range(4) for dtype in ("fp32", "bf16")),
        case(1, "bf16", 2, "model.tie_word_embeddings=true"),
        case(1, "bf16", 2, kept, length=LONG),
        case(2, "fp32", 2, length=LONG),
        case(1, "fp32", 2, "sft.micro_batch_size=2", length=LONG),
    ]
    compare(tmp_path, cases, 2, bucket=2_500_000)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 4])
def test_on_other_numbers_of_ranks(tmp_path, ranks):
    compare(tmp_path, [case(stage, "fp32", ranks, UNTIED) for stage in range(4)], ranks, bucket=2_500_000)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_hundred_million_parameters(tmp_path, ranks):
    cases = [case(stage, "bf16", ranks, length=LONG, shape=LARGE) for stage in range(4)]
    compare(tmp_path, cases, ranks, bucket=30_000_000)


REHEARSED = [
    pytest.param([case(1, "bf16", 2, UNTIED), case(3, "fp32", 2, UNTIED)], marks=pytest.mark.slow, id="two"),  # 20 s
    pytest.param(
        [
            *(case(stage, dtype, 2, UNTIED) for stage in range(4) for dtype in ("fp32", "bf16")),
            case(1, "bf16", 2, "model.tie_word_embeddings=true"),
            case(1, "bf16", 2, "sft.gradient_checkpointing=false", length=LONG),
            case(2, "fp32", 2, length=LONG),
        ],
        marks=pytest.mark.long,
        id="all",
    ),
]


@pytest.mark.parametrize("cases", REHEARSED)
def test_a_rehearsed_step_takes_what_a_real_one_takes(tmp_path, cases):
    """The first rank, within 1%: the same engine on tensors without numbers. 5% where the loss of long rows decides: the
    policy head works in smaller blocks on a CPU than on the device that is imagined."""
    bucket = 2_500_000
    real = measured_of(tmp_path, cases, 2, bucket)[0]
    wrong = []
    for number, settings in enumerate(cases):
        (found,) = rehearse(settings, [0], "stages.sft_rehearsal", (str(bucket),))
        phases = {name: phase["both_peak"] for name, phase in found["phases"].items()}
        for name, size in {"between": phases["between steps"], "peak": max(phases.values())}.items():
            share = 0.01 if settings.sft.sequence_length == SHORT else 0.05
            if abs(size - real[number][name]) > share * real[number][name]:
                wrong.append(
                    f"case {number}, ZeRO {settings.sft.zero_stage}, {settings.model.dtype}, {name}: {size} rehearsed,"
                    f" {real[number][name]} real"
                )
    assert not wrong, "\n".join(wrong)
