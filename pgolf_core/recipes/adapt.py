"""The section `adapt` of a recipe: learning from what has been scored, while the score is taken."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapt:
    """Learning from what has been scored, while the score is taken: the first keys by SGD (PR 1493: its values but
    `kind`), the later ones by adapters of each document (PR 1855: their values)."""

    kind: str = "off"
    """off; sgd: chunk after chunk of the text is scored, then trained on, the last one is scored alone; lora: documents
    with adapters of their own, and phases of SGD on documents that have been scored; frozen: nothing is learned, for a
    tilt alone."""
    lr: float = 0.005
    """Rate of the first chunk of the text, or of a phase; it falls over the chunks as half a cosine, to about 0."""
    epochs: int = 3
    """Passes over a chunk."""
    momentum: float = 0.9
    """Of SGD; kept from chunk to chunk."""
    chunk_tokens: int = 32_768
    batch_seqs: int = 32
    """Sequences of eval.seq_len in a step, over all ranks."""
    grad_clip_norm: float = 1.0
    """As optim.grad_clip_norm."""
    lora_rank: int = 80
    lora_alpha: float = 144.0
    """An adapter adds its product times lora_alpha / lora_rank."""
    lora_lr: float = 1e-4
    """Of AdamW, constant."""
    lora_betas: tuple[float, float] = (0.0, 0.99)
    lora_wd: float = 0.5
    """Decoupled weight decay of the adapters."""
    lora_targets: tuple[str, ...] = ("q", "k", "v", "o", "mlp", "lm_head")
    """What has adapters, all but lm_head one for each block in the order in which they run (PR 2135: no k)."""
    lora_tokens: int = 48
    """Targets of a document that are scored between two steps of its adapters."""
    lora_window: int = 0
    """Tokens that a document is read in at most; 0: eval.seq_len."""
    batch_documents: int = 64
    """Documents of about one length that are scored together, over all ranks."""
    phases: int = 3
    """How often the weights themselves learn, from documents that have been scored; 0: never."""
    phase_documents: int = 2500
    """Documents of the last phase; an earlier one has its share."""
    phase_rows: int = 8
    """Rows that the sequences of a phase's step are packed into, whatever the ranks (PR 1855: one for each of 8)."""
    tilt: str = "off"
    """ngram: tilt each distribution toward the token that has followed the same tokens before (PR 2135)."""
    tilt_order: int = 16
    """Tokens of context and successor together."""
    tilt_threshold: float = 0.8
    """Least share of the context's occurrences in which the successor was that token."""
    tilt_boost: float = 2.625
    """Natural logarithm of what the token's odds are multiplied by."""
    mix: str = "off"
    """ngram: mix each target's score with that of n-grams of the targets before it, alone or after SGD."""
    mix_order: int = 8
    """Tokens of the longest n-gram, the target the last of them."""
    mix_document_order: int = 3
    """The same of the n-grams that are counted in the target's document alone, before the others; 1: none."""
    mix_discount: float = 0.5
    """What a count gives up to shorter contexts, in times seen (absolute discounting, Ney, Essen and Kneser)."""
