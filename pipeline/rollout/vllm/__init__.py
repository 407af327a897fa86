"""vLLM as a rollout engine: the parts that do not use Megatron.

`environment`: what a process must set before it imports vLLM. `core`: one rank of one engine. `sampler`: both log-probs
of every token. `blocks`: the place of a Hugging Face tensor in vLLM's parameters; `loading` writes it. `link` and `server`:
engines on other nodes. `serve`: `vllm serve` processes.
"""
