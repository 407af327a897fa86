"""Where problems come from and how they are cleaned and turned into prompts."""

from typing import Literal

from pydantic import Field

from pipeline.settings.base import Section


class Columns(Section):
    """Names of the columns in the user's own files, without regard to case. Of several, joined by commas, the first that a row
    has and that is not empty is used. `a+b` joins two columns; a dot reaches into one (`reward_model.ground_truth`)."""

    id: str = "id,unique_id"
    """Optional; rows without one are called after their file and line."""
    problem: str = "body+question,problem,question,query,prompt,messages,conversations,input"
    """Text, or a list of messages, of which the user's is used."""
    answer: str = "answer,final_answer,reward_model.ground_truth,ground_truth,expected_answer,label,target,gold"
    solution: str = "solution,extra_info.answer"
    """Optional worked solution; rows that have one become supervised warm-up rows."""


class Arithmetic(Section):
    """The embedded generator: chains of one-digit terms with + and -, whose running total stays in 0..19."""

    train: int = Field(4000, ge=1)
    """Distinct training problems."""
    held_out: int = Field(128, ge=1)
    """Distinct held-out problems, disjoint from training."""
    min_terms: int = Field(2, ge=2)
    max_terms: int = Field(7, ge=2)
    sft_rows: int = Field(20_000, ge=0)
    """Worked examples of the first warm-up phase."""
    sft_mixed_rows: int = Field(4_000, ge=0)
    """Worked examples of the second phase: mostly direct answers and some slips, so that RL has something to fix."""
    direct_share: float = Field(0.3, ge=0, le=1)
    mixed_direct_share: float = Field(0.6, ge=0, le=1)
    slip_share: float = Field(0.1, ge=0, le=1)
    """Share of wrong steps in the second phase."""


class Clean(Section):
    """Cleaning, duplicate removal and decontamination."""

    near_duplicate_threshold: float = Field(0.9, gt=0, le=1)
    """Jaccard similarity of word shingles from which two problems with the same numbers and the same answer count as one;
    1 keeps only exact duplicates out."""
    decontaminate_ngram: int = Field(13, ge=1)
    """A training problem sharing this many consecutive words with an evaluation problem is dropped."""
    decontaminate_common: int = Field(4, ge=0)
    """Half so many words in a row that stand in more than this many other problems are a phrase ("where m and n are
    relatively prime positive integers. Find m+n"), no evidence unless most of an evaluation problem; 0: always evidence."""
    strip_instructions: bool = True
    """Remove the answer-format instructions that published data sets put around their problems (DAPO's "Answer: $Answer")."""
    max_problem_chars: int = Field(8_000, ge=1)
    """Longer training problems go into quarantine."""


class Data(Section):
    """A data preset: `configs/data/<name>.yaml`."""

    source: Literal["arithmetic", "files"] = "files"
    path: list[str] = []
    """Training problems: JSONL or parquet files, or Hugging Face dataset folders (`data.path=a.jsonl,b.parquet`)."""
    encoding: str = "utf-8"
    """Encoding of text files (latin-1, cp1252, gb18030, ...). UTF-16 is recognised without it."""
    split: str = "train"
    """Which split of a folder that has several."""
    eval_path: dict[str, str] = {}
    """Evaluation sets by name (`data.eval_path.math500=...`); also what training is decontaminated against."""
    eval_split: str = "test"
    """Which split of an evaluation folder that has several."""
    sft_path: list[str] = []
    """Files with solutions for the warm-up; empty: rows of `path` that have a solution."""
    columns: Columns = Columns()
    template: Literal["auto", "plain", "chat", "bare"] = "auto"
    """How a problem becomes a prompt. auto: the tokenizer's chat template if it has one, plain otherwise. plain: `Question:
    <problem> <instruction> Answer:`. bare: the problem alone (tiny)."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    """Appended to the problem in plain and chat templates."""
    system_prompt: str = ""
    """System message of chat prompts; plain prompts begin with it. Empty: none, or the chat template's own default."""
    limit: int | None = Field(None, ge=1)
    """Use only the first this many rows of each `path`, `sft_path` and `eval_path` entry."""
    tokenizer: Literal["model", "sentencepiece"] = "model"
    """model: the tokenizer in `model.path`; sentencepiece: train one on the data (tiny)."""
    vocab_size: int = Field(4096, ge=320)
    """Most pieces of a tokenizer that is trained on files; one of embedded problems has `model.vocab_size` at most."""
    arithmetic: Arithmetic = Arithmetic()
    clean: Clean = Clean()
