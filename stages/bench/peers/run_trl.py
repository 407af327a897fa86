"""The RL step of `step_peer_bench` on TRL's GRPOTrainer, run by an interpreter that has it: one step for every line on
its standard input.

python run_trl.py '{"model": folder, "prompts": [[1, 2], ...], "group": 8, "tokens": 64, "steps": 9, "lr": 1e-3,
                   "solved": 0, "micro_batch": 64}'

The first `solved` prompts give every response the same reward.
"""

import itertools
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
    from trl import GRPOConfig, GRPOTrainer

    work = json.loads(sys.argv[1])
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    words = {str(i): i for i in range(model.config.vocab_size)}
    bare = Tokenizer(models.WordLevel(words, unk_token="0"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="0", eos_token="1", padding_side="left")

    class Turns(TrainerCallback):
        """Waits for a line before a step and says how long it took."""

        def on_step_begin(self, args, state, control, **kwargs):
            if not sys.stdin.readline():
                os._exit(0)
            self.start = time.perf_counter(), time.process_time()

        def on_step_end(self, args, state, control, **kwargs):
            clock, processor = self.start
            print("SECONDS", time.perf_counter() - clock, time.process_time() - processor, flush=True)

    rows = [{"prompt": " ".join(map(str, ids))} for ids in work["prompts"]]
    solved = {row["prompt"] for row in rows[: work["solved"]]}

    def even(prompts, completions, **kwargs):
        """The share of even numbers; 1 for a solved prompt."""
        pairs = [(prompt, text.split()) for prompt, text in zip(prompts, completions, strict=True)]
        return [
            1.0 if prompt in solved else sum(int(word) % 2 == 0 for word in words) / max(len(words), 1)
            for prompt, words in pairs
        ]

    sequences = len(rows) * work["group"]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=work["micro_batch"],
            gradient_accumulation_steps=sequences // work["micro_batch"],
            num_generations=work["group"],
            max_completion_length=work["tokens"],
            temperature=1.0,
            learning_rate=work["lr"],
            lr_scheduler_type="constant",
            beta=0.0,
            epsilon=0.2,
            num_iterations=1,
            loss_type="grpo",
            scale_rewards="group",
            shuffle_dataset=False,  # each step has every prompt once
            gradient_checkpointing=False,
            max_steps=work["steps"],
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            report_to="none",
        )
        data = Dataset.from_list(list(itertools.chain(*[rows] * work["steps"])))
        GRPOTrainer(
            model=model,
            reward_funcs=even,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Turns()],
        ).train()


if __name__ == "__main__":
    main()
