"""vLLM as a rollout engine, in the parts that know nothing of Megatron.

`environment` what a process must set before vLLM is imported; `core` one shard of one engine; `sampler` both log-probs of
every token; `blocks` where a Hugging Face tensor lies in vLLM's parameters; `link` and `server` engines on other nodes.
"""
