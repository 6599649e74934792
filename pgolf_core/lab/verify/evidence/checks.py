"""What every check of `pgolf verify` is made of: it returns its evidence or raises, and a verdict comes of it."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from pgolf_core.base.files import UserError

VERDICTS = FAILS, UNKNOWN, SAMPLED, HOLDS = "fails", "cannot be checked here", "sampled", "holds"
"""`sampled` stands where a part was scored, chosen at random, and the claim lies within its 95 % interval."""
MAX_EVIDENCE = 600
Found = TypeVar("Found")


class Row(NamedTuple):
    """One check, its verdict, and in one line what the verdict rests on."""

    check: str
    verdict: str
    evidence: str
    where: str = ""
    """Of a failing check of a submission, the files and lines that its evidence stands in, as far as they are known."""
    right: str = ""
    """Of a failing check of a submission, what it would take to be right."""

    def under(self, what: str) -> "Row":
        """The same row of one among several: its name begins with `what` it is of."""
        return self._replace(check=f"{plain(what)}: {self.check}")


class Broken(Exception):
    """The claim is false, with the evidence."""


class CannotCheck(Exception):
    """Something that is needed is not here."""


class OnlySampled(Exception):
    """Found within the interval of a random sample, with the evidence."""


def judge(name: str, test: Callable[..., str], *of: Any) -> Row:
    """Run one check: it returns its evidence, or raises."""
    try:
        verdict, evidence = HOLDS, test(*of)
    except CannotCheck as reason:
        verdict, evidence = UNKNOWN, f"because {reason}"
    except OnlySampled as found:
        verdict, evidence = SAMPLED, str(found)
    except (Broken, UserError) as reason:
        verdict, evidence = FAILS, str(reason)
    except Exception as error:  # damaged files break things in ways nobody lists; each is a finding, not a crash
        verdict, evidence = FAILS, f"{type(error).__name__}: {error}"
    return Row(plain(name), verdict, plain(evidence))


def judge_all(checks: Mapping[str, Callable[..., str]], *of: Any) -> list[Row]:
    """A row for every check of a table."""
    return [judge(name, check, *of) for name, check in checks.items()]


def plain(text: str) -> str:
    """One line of printable characters, shortened: what a hostile file says must not steer a terminal."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= MAX_EVIDENCE else line[: MAX_EVIDENCE - 1] + "…"


def hold(is_held: bool, evidence: str) -> str:
    """The evidence, if the claim is held; else Broken with it."""
    if not is_held:
        raise Broken(evidence)
    return evidence


def require(is_here: bool, reason: str) -> None:
    """CannotCheck with the reason, where something that is needed is not here."""
    if not is_here:
        raise CannotCheck(reason)


def needed(what: str, read: Callable[[], Found]) -> Found:
    """What another check already judges: without it, this one cannot be made."""
    try:
        return read()
    except CannotCheck:
        raise
    except Exception:
        raise CannotCheck(f"it needs {what}") from None


def quietly(read: Callable[[], Found]) -> Found | None:
    """What is read, or None where another row says why it cannot be."""
    try:
        return read()
    except Exception:
        return None


class once(Generic[Found]):
    """A property that is read once and keeps even its exception, so that no check repeats another's failing hour."""

    def __init__(self, read: Callable[[Any], Found]):
        self.read, self.__doc__ = read, read.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Found:
        kept = instance.__dict__.setdefault("_once", {})
        if self.read not in kept:
            try:
                kept[self.read] = self.read(instance), None
            except Exception as error:
                kept[self.read] = None, error
        value, broken = kept[self.read]
        if broken is not None:
            raise broken
        return value
