"""An estimate of the memory of the warm-up: one rank of DeepSpeed's ZeRO at its stage. All numbers are bytes.

It follows what DeepSpeed 0.19 and transformers 5 keep, as runs on gloo ranks showed (tests/sft/test_memory.py). Experts are
assumed to keep what a dense MLP of their width would.
"""

from dataclasses import dataclass

from pipeline.run.memory import GIB, OVERHEAD_GIB
from pipeline.run.shapes import count
from pipeline.settings import Model, Settings

LIVE = 10**9
"""Parameters that ZeRO 3 holds whole at once (DeepSpeed's stage3_max_live_parameters)."""
FETCH = 5 * 10**7
"""Parameters that ZeRO 3 gathers in one call (stage3_prefetch_bucket_size): they exist twice while they are cut apart."""
SMALL = 10**5
"""Parameters of the largest tensor that ZeRO 3 keeps whole once it has gathered it (stage3_param_persistence_threshold)."""
SUB_GROUP = 10**9
"""Parameters that ZeRO 3 steps at once (sub_group_size)."""
BUCKET = 5 * 10**8
"""Elements of the one bucket in which gradients are summed: allocated whole, however small the model is."""


@dataclass(frozen=True)
class Moment:
    """What one moment of a step adds to that which stays."""

    name: str
    gradients: int
    buffers: int
    """Communication buckets, and with ZeRO 3 the layers that are gathered at the moment."""
    activations: int = 0
    temporary: int = 0
    """A tile of logits and the gradients of the output layer; gradients of the embedding; Adam's temporary tensors."""


@dataclass(frozen=True)
class SftMemory:
    """One rank's memory."""

    weights: int
    optimizer: int
    """fp32 masters and Adam's two moments."""
    overhead: int
    between: int
    """What ZeRO 3 also holds between steps: its gradients, its bucket, and small tensors whole. Moments count it as theirs."""
    moments: tuple[Moment, ...]

    @property
    def fullest(self) -> Moment:
        """The moment that decides the peak."""
        return max(self.moments, key=_size)

    @property
    def states(self) -> int:
        """What no other setting of the rows saves: weights, optimizer, and the gradients as a backward pass ends."""
        return self.weights + self.optimizer + self.overhead + max(moment.gradients for moment in self.moments)

    @property
    def peak(self) -> int:
        return self.peak_of(self.fullest)

    def peak_of(self, moment: Moment) -> int:
        """Bytes on the device at `moment`."""
        return self.weights + self.optimizer + self.overhead + _size(moment)


def _size(moment: Moment) -> int:
    return moment.gradients + moment.buffers + moment.activations + moment.temporary


def estimate(settings: Settings, ranks: int, on_gpu: bool, bucket: int = BUCKET) -> SftMemory:
    """Memory of a rank of the warm-up over `ranks` ranks. `bucket`: elements of DeepSpeed's reduce_bucket_size."""
    share = max(1, settings.sft.batch_size // ranks)
    rows = -(-share // -(-share // settings.sft.micro_batch_size))  # of one micro-batch: no more than there are
    settings = settings.model_copy(update={"sft": settings.sft.model_copy(update={"micro_batch_size": rows})})
    sft, model = settings.sft, settings.model
    total, stage = count(model).total, sft.zero_stage
    element = 2 if model.dtype == "bf16" else 4
    own = total // ranks if stage else total
    # Without ZeRO fp32 weights are their own masters.
    kept = 8 if stage == 0 and element == 4 else 12
    # On a CPU the pages of a bucket that are never written take no memory.
    whole = element * (bucket if on_gpu else min(bucket, total)) if stage else 0
    return SftMemory(
        weights=element * (own if stage == 3 else total),
        optimizer=kept * own,
        overhead=int(OVERHEAD_GIB * GIB) if on_gpu else 0,
        between=element * (own + _kept_whole(model) * (ranks > 1)) + whole if stage == 3 else 0,
        moments=(*_passes(settings, ranks, own, whole, bucket, on_gpu), _step(settings, ranks, own, whole, on_gpu)),
    )


def _passes(settings: Settings, ranks: int, own: int, bucket: int, capacity: int, on_gpu: bool) -> list[Moment]:
    """The moments of the last micro-batch's forward and backward pass. `bucket`: its bytes; `capacity`: its elements."""
    sft, model, stage = settings.sft, settings.model, settings.sft.zero_stage
    total = count(model).total
    element = 2 if model.dtype == "bf16" else 4
    mine = _overlapping(model, ranks) if stage == 2 else own
    again = sft.batch_size // ranks > sft.micro_batch_size  # gradients of earlier micro-batches are there
    matrix = element * model.hidden_size * model.vocab_size
    inputs, layer, layer_alone = _activations(settings)
    # Of a tied matrix the output layer's gradient waits for the embedding's, and their sum is a third tensor.
    tied = matrix if model.tie_word_embeddings else 0
    live = element * min(LIVE, total) if stage == 3 else 0
    whole = element * total
    # Gradients: before this backward pass, within it, and at its end.
    before = (whole if stage < 2 else element * mine) if again or stage == 3 else 0
    within = whole if stage < 2 else element * mine * (1 if stage == 3 else 1 + again)
    # ZeRO 2 takes its share out of the bucket as that is full; before, what the pass made lies in the bucket alone.
    early = within if stage != 2 or capacity < total else before
    loss_bucket = bucket if stage == 3 or (stage == 1 and again) else 0
    # A gradient that is added to an earlier one, or copied to the bucket, exists beside it.
    twice = min(live // element, FETCH) if stage == 3 else min(capacity, total) if stage == 2 and ranks > 1 else 0
    embedding = matrix * (1 if again or stage >= 2 else 0) + 2 * tied
    return [
        Moment("the loss", before, loss_bucket + live, inputs, _head(settings, on_gpu)),
        Moment("the last layer's backward pass", before, bucket + live, inputs + layer, tied),
        Moment("the first layer's backward pass", early, bucket + live, _inputs(settings, 1) + layer_alone, tied),
        Moment("the embedding's gradient", early, bucket + live, _inputs(settings, 1), embedding),
        # Layers as they are gathered, or in ZeRO 2 the bucket as it is summed rank by rank, exist twice.
        Moment("the sum over ranks", within, bucket + live + element * twice),
    ]


def _step(settings: Settings, ranks: int, own: int, bucket: int, on_gpu: bool) -> Moment:
    """The optimizer step. ZeRO joins a rank's gradients to one fp32 tensor beside those that it has; torch's AdamW makes the
    square root of the second moment, on a CPU twice."""
    stage, element = settings.sft.zero_stage, 2 if settings.model.dtype == "bf16" else 4
    if stage == 0:
        model = settings.model
        largest = model.hidden_size * max(model.vocab_size, model.ffn_hidden_size)
        adam = 4 * own if on_gpu else 8 * largest  # on a CPU, parameter by parameter
        joined = 4 * own if element == 2 else 0
        summed = element * min(own, BUCKET)  # the gradients of an all-reduce, joined, before the step
        return Moment("the optimizer step", element * own, 0, 0, max(joined + adam, summed))
    at_once = min(own, SUB_GROUP) if stage == 3 else own
    gradients = element * (own if stage == 3 else _overlapping(settings.model, ranks))
    return Moment("the optimizer step", gradients, bucket if stage == 3 else 0, 0, (4 + (4 if on_gpu else 8)) * at_once)


def _overlapping(model: Model, ranks: int) -> int:
    """Elements of all matrices of which the fullest rank has a share: ZeRO 1 and 2 cut the model into equal shares, through
    matrices too, and keep the gradients of those whole."""
    sizes, ends = _matrices(model), [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    share, held = -(-ends[-1] // ranks), [0] * ranks
    for size, start, end in zip(sizes, ends[:-1], ends[1:], strict=True):
        for rank in range(start // share, (end - 1) // share + 1):
            held[rank] += size
    return max(held)


def _kept_whole(model: Model) -> int:
    """Elements of the tensors that ZeRO 3 does not cut again: vectors and small matrices."""
    sizes = _matrices(model)
    return count(model).total - sum(size for size in sizes if size > SMALL)


def _matrices(model: Model) -> list[int]:
    """Sizes of the model's matrices in the order of transformers; experts are two tensors."""
    hidden, experts = model.hidden_size, model.experts
    queries, keys = model.num_attention_heads * model.head_dim, model.num_query_groups * model.head_dim
    mlp = [model.ffn_hidden_size] * 3
    if experts.count:
        mlp = [2 * experts.count * experts.ffn_hidden_size, experts.count * experts.ffn_hidden_size, experts.count]
    layer = [hidden * width for width in (queries, keys, keys, queries, *mlp)]
    matrix = model.vocab_size * hidden
    return [matrix, *layer * model.num_layers, *([] if model.tie_word_embeddings else [matrix])]


def _inputs(settings: Settings, layers: int) -> int:
    """The inputs of `layers` layers, the rotary cosines and sines, and the mask of one micro-batch."""
    sft, model = settings.sft, settings.model
    tokens, element = sft.micro_batch_size * sft.sequence_length, 2 if model.dtype == "bf16" else 4
    return element * tokens * (layers * model.hidden_size + 2 * model.head_dim + sft.sequence_length)


def _activations(settings: Settings) -> tuple[int, int, int]:
    """What a micro-batch keeps until its backward pass; what the last layer's backward pass, which is the first, adds; and all
    that the first layer's needs beside its input."""
    sft, model = settings.sft, settings.model
    tokens, element = sft.micro_batch_size * sft.sequence_length, 2 if model.dtype == "bf16" else 4
    hidden, wide = model.hidden_size, _mlp_width(model)
    queries, keys = model.num_attention_heads * model.head_dim, model.num_query_groups * model.head_dim
    # transformers' RMSNorm keeps its input as fp32, the input divided by its size, and the output.
    norm = 4 + 2 * element
    # An fp32 layer's input is kept already; a bf16 one once more, as fp32.
    attention = 2 * norm * hidden - (4 * hidden if element == 4 else 0)
    # q and k as their norms read and make them (rotation keeps nothing), q rotated, k and v once for every head, the output.
    attention += (norm - element) * (queries + keys) * model.qk_norm + 4 * element * queries
    attention += 4 * model.num_attention_heads  # the softmax's sums
    mlp = 4 * element * wide  # gate, up, the activated gate, their product
    # The MLP's backward pass: the product goes, the gradients of all three come, beside that of the output.
    at_work = 2 * element * wide + element * hidden
    if sft.gradient_checkpointing:
        return (
            _inputs(settings, model.num_layers),
            tokens * (attention + mlp + at_work),
            tokens * (attention + mlp + at_work),
        )
    layers = model.num_layers if element == 4 else 0
    # The last norm's backward pass makes six fp32 tensors of its input's size.
    return (
        _inputs(settings, layers) + model.num_layers * tokens * (attention + mlp),
        tokens * max(at_work, 24 * hidden if element == 2 else 0),
        tokens * (attention + mlp + at_work),
    )


def _mlp_width(model: Model) -> int:
    experts = model.experts
    return experts.per_token * experts.ffn_hidden_size if experts.count else model.ffn_hidden_size


def _head(settings: Settings, on_gpu: bool) -> int:
    """The last norm, and the policy head's backward pass: a tile of logits, the gradients of its operands."""
    sft, model = settings.sft, settings.model
    tokens, element = sft.micro_batch_size * sft.sequence_length, 2 if model.dtype == "bf16" else 4
    hidden, vocab = model.hidden_size, model.vocab_size
    rows, columns = min(4096 if on_gpu else 512, tokens), min(8192 if on_gpu else 4096, vocab)
    tile = 4 * rows * columns + (element if on_gpu and element == 2 else 0) * rows * columns
    # On a CPU bf16 operands are widened, the rows of two tiles at once.
    widened = 0 if on_gpu or element == 4 else 4 * hidden * min(2 * columns, vocab)
    sums = 4 * columns * hidden if element == 2 else 0
    norm = (4 + 2 * element) * tokens * hidden
    operand = (element if on_gpu else 4) * rows * hidden
    return norm + tile + widened + sums + operand + 4 * tokens * hidden + element * vocab * hidden
