"""Everything that uses megatron-core. Importing this package checks and installs the patches, so import it before
`megatron.core`. A module of this package that needs megatron-core may then import it as usual.
"""

from megatron_patches.upstream.registry import install

__all__ = ["token_logprobs"]

install()


def __getattr__(name: str):
    # Imported on first use, so that importing the package costs no more than its patches.
    if name == "token_logprobs":
        from megatron_patches.policy_head import token_logprobs

        return token_logprobs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
