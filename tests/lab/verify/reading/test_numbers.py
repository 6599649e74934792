"""Numbers of logs and claims: finite, and read as they are written."""

from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.verify.reading.numbers import agrees, is_score, near, same_number, same_score, written


def test_numbers_are_finite_and_no_bools():
    assert all(map(is_number, (0, -1.5, 2**70))) and not any(map(is_number, (True, None, "1", float("nan"), 10**400)))


def test_a_number_as_written_agrees_with_what_it_is_rounded_or_cut_from():
    assert agrees("1.1248", 1.12484502) and agrees("1.1249", 1.12485) and agrees("1,234", 1234.4)
    assert agrees("1.9", 1.99), "cut"
    assert agrees("1.1248e+00", 1.12484502) and not agrees("1.1248e+00", 1.4) and agrees("2e3", 2000.4)
    assert not agrees("1.1249", 1.12484) and not agrees("2", 1.4) and not agrees("1e999", 1.0)
    assert same_number("1.12", "1.1248") and same_number("1.1248", "1.12") and not same_number("1.13", "1.1248")
    assert same_score("1.3926597825824365", "1.39265978") and not same_score("1.39", "1.39265978")
    assert is_score("1.1248", 1.12484502) and not is_score("1.1", 1.12484502)
    assert [written(value) for value in (3, 1e-7, 2e-5, 0.25)] == ["3", "0.0000001", "0.00002", "0.25"]
    assert near("1.0811", 1.08103) and not near("1.0813", 1.08103) and not near("7059", 7058.3)
    assert near("0.00052", 0.000523) and not near("0.01", 0.0002), "a single digit would agree with too much"
