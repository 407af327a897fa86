"""`rollout.mode=serve`: ordinary `vllm serve` processes, over HTTP and vLLM's weight-transfer API.

`http`: JSON requests to one server. `api`: what a server can do, under vLLM's names of the routes. `weight_api`: vLLM's
classes for weight transfer. `sending`: the trainer's side of a transfer. `wire`: tensors on a socket. `extension`: what the
servers' workers import. `fleet`: several servers, their load and their loss.

`api` and `weight_api` alone know vLLM's names: a new vLLM is a change there.
"""
