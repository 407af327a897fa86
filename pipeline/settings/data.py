"""Where problems come from and how they are cleaned and turned into prompts."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.base import Section
from pipeline.settings.ready_sets import sets_of

LARGEST_TOTAL = 19
"""The largest running total of an embedded problem."""
USABLE_SHARE = 0.9
"""Share of all problems that random draws reach in reasonable time."""


class Columns(Section):
    """Names of the columns in the user's own files, without regard to case. Of several, joined by commas, the first that a row
    has and that is not empty is used. `a+b` joins two columns; a dot reaches into one (`reward_model.ground_truth`)."""

    id: str = "id,unique_id"
    """Row name (optional); rows without one are named after their file and line."""
    problem: str = "body+question,problem,question,query,prompt,messages,conversations,input"
    """Problem text, or a list of messages, of which the user's is used."""
    answer: str = "answer,final_answer,reward_model.ground_truth,ground_truth,expected_answer,label,target,gold"
    """Right answer; a row without one takes it from its solution."""
    solution: str = "solution,extra_info.answer"
    """Worked solution (optional); rows that have one become supervised warm-up rows."""


class Arithmetic(Section):
    """The embedded generator: chains of one-digit terms with + and -, whose running total stays in 0..19."""

    train: int = Field(4000, ge=1)
    """Distinct training problems."""
    held_out: int = Field(128, ge=1)
    """Distinct held-out problems, disjoint from training."""
    min_terms: int = Field(2, ge=2)
    """Fewest terms of a problem."""
    max_terms: int = Field(7, ge=2)
    """Most terms of a problem."""
    sft_rows: int = Field(20_000, ge=0)
    """Warm-up examples in the file `sft`, of the first phase."""
    sft_mixed_rows: int = Field(4_000, ge=0)
    """Warm-up examples in the file `sft_mixed`, of the second phase: mostly direct answers and some slips, so that RL has
    something to fix."""
    direct_share: float = Field(0.3, ge=0, le=1)
    """Share of the rows of `sft` that answer at once, without steps."""
    mixed_direct_share: float = Field(0.6, ge=0, le=1)
    """Share of the rows of `sft_mixed` that answer at once."""
    slip_share: float = Field(0.1, ge=0, le=1)
    """Share of wrong steps in the rows of `sft_mixed`."""

    @model_validator(mode="after")
    def _check(self) -> "Arithmetic":
        if self.min_terms > self.max_terms:
            raise ValueError(
                f"data.arithmetic.min_terms={self.min_terms} is above data.arithmetic.max_terms={self.max_terms}"
            )
        wanted = self.train + self.held_out
        available = problem_count(self.min_terms, self.max_terms, at_least=wanted)
        if wanted > USABLE_SHARE * available:
            raise ValueError(
                f"data.arithmetic.train={self.train} + data.arithmetic.held_out={self.held_out} = {wanted} different"
                f" problems are too many: only {available} have {self.min_terms} to {self.max_terms} terms, and the"
                f" generator finds at most {USABLE_SHARE:.0%} of them. Raise data.arithmetic.max_terms, or lower"
                " data.arithmetic.train"
            )
        return self


def problem_count(min_terms: int, max_terms: int, at_least: int) -> int:
    """Different problems of `min_terms` to `max_terms` terms; counting stops once `at_least` are sure to be usable."""
    ways = [int(total <= 9) for total in range(LARGEST_TOTAL + 1)]  # by running total; the first term is 0..9
    count = 0
    for terms in range(2, max_terms + 1):
        ways = [
            sum(ways[before] for before in range(LARGEST_TOTAL + 1) if 1 <= abs(total - before) <= 9)
            for total in range(LARGEST_TOTAL + 1)
        ]
        if terms >= min_terms:
            count += sum(ways)
        if USABLE_SHARE * max(count, sum(ways)) >= at_least:  # longer problems are more
            return max(count, sum(ways))
    return count


class Clean(Section):
    """Cleaning, duplicate removal and decontamination."""

    near_duplicate_threshold: float = Field(0.9, gt=0, le=1)
    """Jaccard similarity of word shingles from which two problems with the same numbers and the same answer count as one;
    1 removes only exact duplicates."""
    decontaminate_ngram: int = Field(13, ge=1)
    """A training problem that shares this many consecutive words with an evaluation problem is dropped."""
    decontaminate_common: int = Field(4, ge=0)
    """Half as many consecutive words, if they occur in more than this many other problems, are a common phrase ("where m
    and n are relatively prime positive integers. Find m+n") and no evidence of contamination, unless they are most of an
    evaluation problem; 0: always evidence."""
    strip_instructions: bool = True
    """Remove the answer-format instructions that published data sets put around their problems (DAPO's "Answer: $Answer")."""
    several_answers: Literal["refuse", "keep"] = "refuse"
    """A row whose answer is a list of different values: refuse (it goes into quarantine), keep (`verify.gold_list` says whether
    any of them is right or all of them make the answer)."""
    max_problem_chars: int = Field(8_000, ge=1)
    """Characters; longer training problems go into quarantine."""


class Data(Section):
    """A data preset: `configs/data/<name>.yaml`."""

    source: Literal["arithmetic", "files"] = "files"
    """arithmetic: the embedded generator; files: problems of your own."""
    path: list[str] = []
    """Training problems: JSONL or parquet files, or Hugging Face dataset folders (`data.path=a.jsonl,b.parquet`)."""
    encoding: str = "utf-8"
    """Encoding of text files (latin-1, cp1252, gb18030, ...). UTF-16 is recognised without it."""
    split: str = "train"
    """Which split of a folder that has several."""
    eval: list[str] = []
    """Evaluation sets in short: names of known sets (aime24, aime25, amc23, gsm8k, math500) and files, each named after its
    file."""
    eval_folder: str | None = None
    """Folder with the files of the known sets (`aime24.jsonl`, `MATH-500`); none: the package datasets loads them."""
    eval_path: dict[str, str] = {}
    """Evaluation sets by name (`data.eval_path.math500=...`); also what training is decontaminated against."""
    eval_split: str = "test"
    """Which split of an evaluation folder that has several."""
    sft_path: list[str] = []
    """Files with solutions for the warm-up; empty: rows of `path` that have a solution."""
    columns: Columns = Columns()
    """Column names in files."""
    template: Literal["auto", "plain", "chat", "bare"] = "auto"
    """How a problem becomes a prompt. auto: the tokenizer's chat template if it has one, plain otherwise. plain: `Question:
    <problem> <instruction> Answer:`. bare: the problem alone (tiny)."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    """Appended to the problem in plain and chat templates."""
    system_prompt: str = ""
    """System message of chat prompts; plain prompts begin with it. Empty: none, or the chat template's own default."""
    limit: int | None = Field(None, ge=1)
    """Rows used of each `path`, `sft_path` and `eval_path` entry, from its start; none: all."""
    tokenizer: Literal["model", "sentencepiece"] = "model"
    """model: the tokenizer in `model.path`; sentencepiece: train one on the data (tiny)."""
    vocab_size: int = Field(4096, ge=320)
    """Most pieces of a tokenizer that is trained on files; one trained on embedded problems has at most `model.vocab_size`."""
    arithmetic: Arithmetic = Arithmetic()
    """The embedded generator."""
    clean: Clean = Clean()
    """Cleaning of files."""

    @model_validator(mode="before")
    @classmethod
    def _name_sets(cls, values: Any) -> Any:
        """Gives every entry of `eval` its place in `eval_path`; a set that is given there by name wins."""
        entries = values.get("eval") if isinstance(values, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            return values
        given, folder = values.get("eval_path") or {}, values.get("eval_folder")
        if not isinstance(given, dict) or not isinstance(folder, str | None):
            return values
        return values | {"eval_path": sets_of(entries, folder) | given}

    @property
    def only_evaluates(self) -> bool:
        """Evaluation sets, and nothing to train on."""
        return self.source == "files" and bool(self.eval_path) and not self.path and not self.sft_path
