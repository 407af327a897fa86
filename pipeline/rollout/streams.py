"""Random streams of single requests: what makes a sample independent of the batch that it was drawn in."""

import hashlib


def request_key(seed: int, prompt_id: str, sample: int, policy_version: int) -> int:
    """A request's own 64-bit key (signed, as torch's int64 holds it). The same four arguments always give the same key;
    any others give an unrelated one."""
    text = f"{seed}\x1f{prompt_id}\x1f{sample}\x1f{policy_version}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
