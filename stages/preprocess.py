"""Raw problems -> training prompts, warm-up rows, evaluation sets and the tokenizer."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from pipeline.artifacts import write_jsonl
from pipeline.data import arithmetic, tokenizer
from pipeline.data.templates import encode_prompt
from pipeline.errors import UsageError
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    settings = run.settings
    if settings.data.source != "arithmetic":
        raise UsageError("data.source=files is being built")
    made = arithmetic.generate(settings.data.arithmetic, settings.seed)
    files = {"train": made.train, "eval/held_out": made.held_out, "sft": made.sft, "sft_mixed": made.sft_mixed}
    counts = {name: write_jsonl(run.folder() / f"{name}.jsonl", rows) for name, rows in files.items()}
    words = tokenizer.prepare(
        settings, (row["problem"] + row["response"] for row in made.sft), run.folder() / "tokenizer"
    )
    longest = max(len(encode_prompt(row["problem"], settings.data, words)) for row in made.train)

    table = Table("file", "rows", title="preprocess")
    for name, count in counts.items():
        table.add_row(f"{name}.jsonl", str(count))
    Console().print(table)
    run.log(f"tokenizer of {len(words)} pieces; the longest prompt has {longest} tokens")
    return {"rows": counts, "sources": dict(Counter(row["source"] for row in made.train))}


if __name__ == "__main__":
    run_stage(main)
