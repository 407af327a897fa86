"""The bench's work on vLLM, run by an interpreter that has it: does it once for every line on its standard input.

python run_vllm.py '{"model": folder, "prompts": [[1, 2], ...], "group": 8, "tokens": 64, "cores": [0, 1]}'
"""

import json
import os
import sys
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def main() -> None:
    work = json.loads(sys.argv[1])
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, work["cores"]))
    from vllm import LLM, SamplingParams

    sequences = len(work["prompts"]) * work["group"]
    engine = LLM(
        model=work["model"],
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=sequences,
        enable_prefix_caching=True,
        disable_log_stats=True,
    )
    sampling = SamplingParams(
        n=work["group"], temperature=1.0, max_tokens=work["tokens"], ignore_eos=True, detokenize=False, logprobs=0
    )
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        made = engine.generate(prompts, sampling, use_tqdm=False)
        took = time.perf_counter() - start, time.process_time() - processor
        assert sum(len(one.token_ids) for request in made for one in request.outputs) == sequences * work["tokens"]
        print("SECONDS", *took, flush=True)


if __name__ == "__main__":
    main()
