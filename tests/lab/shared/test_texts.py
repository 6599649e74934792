"""The known texts: what they are called and how large they are, in one place."""

from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TARGETS, FINEWEB_TRACK, SOTU_EXPECTED, SOTU_PREFIX
from pgolf_core.lab.verify.evidence.text import TEXT_OF_TRACK
from pgolf_core.recipes.recipe import TRACK_CAP_BYTES


def test_every_track_has_its_text():
    assert set(TEXT_OF_TRACK) == set(TRACK_CAP_BYTES) and FINEWEB_TRACK in TRACK_CAP_BYTES
    assert TEXT_OF_TRACK[FINEWEB_TRACK][1] == FINEWEB_BYTES > 2 * FINEWEB_TARGETS
    assert TEXT_OF_TRACK["local_10min_1mb"][:2] == (SOTU_PREFIX, SOTU_EXPECTED["val"][1])
