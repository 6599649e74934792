"""The plan of adaptation by documents (PR 1855): each has adapters of its own, and all learn from some in phases.

Documents of about one length form a group, whose groups run one after another, the longest documents first; a group's
documents are scored chunk by chunk side by side. The plan reads where documents begin, and nothing else of the text.
"""

from dataclasses import dataclass

import numpy as np

from pgolf_core.adapting.plan import Event, ScoreEvent, UpdateEvent, rate_of, sequences_of
from pgolf_core.recipes.adapt import Adapt
from pgolf_core.recipes.recipe import Eval
from pgolf_core.text.tokenizer import BOS


@dataclass(frozen=True, eq=False, kw_only=True)
class DocumentScore(ScoreEvent):
    """One chunk of some of a group's documents, each read from its own window."""

    rows: np.ndarray
    """Which of the group's documents each window is of, int64 [windows], rising."""
    group_size: int
    """Documents of the group."""
    chunk: int
    width: int
    """Tokens of a row; a shorter window is filled up."""

    @property
    def stretch(self) -> tuple[int, int]:
        """The first window's targets."""
        return int(self.windows[0, 1]), int(self.windows[0, 2])


@dataclass(frozen=True, eq=False, kw_only=True)
class DocumentUpdate(UpdateEvent):
    """A step of the adapters on the chunk that has just been scored, for the documents that go on."""

    scored: DocumentScore
    learns: np.ndarray
    """bool [windows of the scored chunk]: whether that document has a later chunk."""

    @property
    def known(self) -> np.ndarray:
        """From each document's beginning on."""
        windows = self.scored.windows[self.learns]
        begins = windows[:, 1] - self.scored.chunk * (windows[0, 2] - windows[0, 1])
        return np.stack((begins, windows[:, 2]), axis=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class PhaseUpdate(UpdateEvent):
    """A step of the weights themselves; `sequences` count in the text of the phase's documents, one after another."""

    documents: np.ndarray
    """Rows (first target, end), int64 [documents, 2]: its text is tokens first..end, the next document's BOS too."""
    is_first: bool
    """Whether the phase begins with it."""

    @property
    def targets(self) -> tuple[int, int]:
        """The first target that any document of the phase has, and the end."""
        return int(self.documents[:, 0].min()), int(self.documents[:, 1].max())

    @property
    def known(self) -> np.ndarray:
        """Of all documents, when the phase begins."""
        return self.documents if self.is_first else self.documents[:0]


def documents_in(tokens: np.ndarray) -> np.ndarray:
    """Rows (first target, end) of the documents of a stream (integers [n]), int64 [documents, 2].

    The token that begins the next document is a target of the one before it; a start that nothing follows is none.
    """
    begins = np.flatnonzero(np.asarray(tokens) == BOS)
    begins = np.union1d(begins, [0]).astype(np.int64)
    rows = np.stack((begins, np.append(begins[1:], len(tokens) - 1)), axis=1)
    return rows[rows[:, 1] > rows[:, 0]]


def groups_in(documents: np.ndarray, adapt: Adapt) -> list[np.ndarray]:
    """Indices of the documents of each group: by rising length, `batch_documents` at a time."""
    order = np.argsort(documents[:, 1] - documents[:, 0], kind="stable")
    return [order[at : at + adapt.batch_documents] for at in range(0, len(order), adapt.batch_documents)]


def plan_documents(tokens: np.ndarray, evaluation: Eval, adapt: Adapt) -> list[Event]:
    """Score and learn group by group, and from scored documents in phases.

    A phase follows the group by which phase_documents * (p + 1) // phases documents have been scored. Of these it takes
    as many, those of the groups with shorter documents first; nothing is learned after the last group.
    """
    return plan_lengths(documents_in(tokens), evaluation, adapt)


def plan_lengths(documents: np.ndarray, evaluation: Eval, adapt: Adapt) -> list[Event]:
    """The plan for documents that lie at rows (first target, end), int64 [documents, 2]."""
    groups = groups_in(documents, adapt)
    longest = [int((documents[group, 1] - documents[group, 0]).max()) for group in groups]
    events, done, phase = list[Event](), list[int](), 0
    for number in sorted(range(len(groups)), key=longest.__getitem__, reverse=True):
        events += _group_events(documents[groups[number]], evaluation, adapt)
        done.append(number)
        if phase < adapt.phases and len(done) < len(groups):
            bound = adapt.phase_documents * (phase + 1) // adapt.phases
            scored = np.concatenate([groups[one] for one in sorted(done)])
            if len(scored) >= bound:
                events += _phase_events(documents[scored[:bound]], evaluation, adapt)
                phase += 1
    return events


def _group_events(documents: np.ndarray, evaluation: Eval, adapt: Adapt) -> list[Event]:
    size, window = adapt.lora_tokens, adapt.lora_window or evaluation.seq_len
    begins, counts = documents[:, 0], documents[:, 1] - documents[:, 0]
    chunks, events = -(-counts // size), list[Event]()
    for chunk in range(int(chunks.max())):
        rows = np.flatnonzero(chunks > chunk)
        ends = np.minimum((chunk + 1) * size, counts[rows])
        places = np.stack((np.maximum(ends - window, 0), np.full_like(ends, chunk * size), ends), axis=1)
        learns, width = chunks[rows] > chunk + 1, min((chunk + 1) * size, window)
        windows, goes_on = begins[rows, None] + places, bool(learns.any())
        group = {"group_size": len(documents), "chunk": chunk, "width": width}
        score = DocumentScore(windows, rests=not goes_on, anew=chunk == 0, rows=rows, **group)
        events.append(score)
        if goes_on:
            own = windows[learns][:, 1:]
            events.append(DocumentUpdate(own, adapt.lora_lr, False, False, scored=score, learns=learns))
    return events


def _phase_events(documents: np.ndarray, evaluation: Eval, adapt: Adapt) -> list[Event]:
    size, targets = adapt.chunk_tokens, int((documents[:, 1] - documents[:, 0] + 1).sum()) - 1
    last = (targets - 1) // size if len(documents) else 0
    return [
        PhaseUpdate(
            sequences_of(chunk, size, evaluation.seq_len), rate_of(chunk, last, adapt), rests=chunk == last - 1,
            documents=documents, is_first=chunk == 0,
        )
        for chunk in range(last)
    ]  # fmt: skip
