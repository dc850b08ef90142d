"""The layer string against a second, independent reading of its grammar, and its faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.model.decoder import order
from ablab.study.layers import DEEPEST, MOST, expand, spell

SPACES = st.sampled_from(["", "", " ", "  "])
LETTERS = st.sampled_from("ABGLMZ")


@st.composite
def written(draw: st.DrawFn, depth: int = 3) -> tuple[str, str]:
    """(text, what it means), built from the meaning outwards."""
    text, meaning = "", ""
    for _ in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()):
            inner, means = draw(written(depth - 1))
            unit = f"({inner})"
        else:
            unit = means = draw(LETTERS)
        times = draw(st.one_of(st.none(), st.integers(1, 3)))
        gap, after = draw(SPACES), draw(SPACES)
        text += gap + unit + (f"{after}*{gap}{times}" if times else "") + after
        meaning += means * (times or 1)
    return text, meaning


@given(written())
def test_a_string_means_what_it_was_built_from(pair: tuple[str, str]) -> None:
    text, meaning = pair
    if len(meaning) > MOST:
        with pytest.raises(ValueError, match="more than 1000 layers"):
            expand(text)
    else:
        assert expand(text) == (meaning, [])
        assert expand(expand(text)[0]) == (meaning, [])


@given(st.text(alphabet="LG()[]^* 0123x\n", max_size=12))
def test_any_text_is_read_or_refused_with_a_cure(text: str) -> None:
    try:
        layers, loops = expand(text)
    except ValueError as error:
        assert "; " in str(error)
    else:
        assert expand(spell(layers, loops)) == (layers, loops)
        assert set(layers) <= {"L", "G"} and 0 < len(layers) <= MOST
        ends = [0, *(place for first, end, _ in loops for place in (first, end)), len(layers)]
        assert ends == sorted(ends) and all(first < end and passes >= 2 for first, end, passes in loops)


def test_examples() -> None:
    assert expand("(LLLG)*3")[0] == "LLLGLLLGLLLG"
    assert expand(" ( L*3 G ) * 2 L ")[0] == "LLLGLLLGL"
    assert expand("((L)*2)*2")[0] == "LLLL"
    assert expand("L*007")[0] == "L" * 7
    assert len(expand("(L*10)*100")[0]) == MOST


def test_loops_are_not_repetitions() -> None:
    assert expand("LLL[LLL]^3L*5") == ("L" * 11, [(3, 6, 3)])
    assert expand("[L*2]^2 (LG)*2 [G] ^ 4") == ("LLLGLGG", [(0, 2, 2), (6, 7, 4)])
    assert order(11, [(3, 6, 3)]) == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert order(3, []) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'no layer; name layers by letter, as in "(LLLG)*3"'),
        ("   ", 'no layer; name layers by letter, as in "(LLLG)*3"'),
        ("L()", "nothing between '(' and ')' at character 3; name layers by letter, as in \"(LLLG)*3\""),
        ("(LG", "'(' at character 1 is never closed; add ')'"),
        ("LG)", "')' at character 3 closes nothing; remove it"),
        ("L*", "'*' at character 2 has no number after it; write how often, as in \"L*3\""),
        ("L*G", "'*' at character 2 has no number after it; write how often, as in \"L*3\""),
        ("L*-1", "'*' at character 2 has no number after it; write how often, as in \"L*3\""),
        ("L*0", "'*0' at character 2 repeats nothing; repeat at least once, or remove the unit"),
        ("3*L", '\'3\' at character 1 is no layer; write letters, "(", ")" and "*" with a number, as in "(LLLG)*3"'),
        ("L*2 3", '\'3\' at character 5 is no layer; write letters, "(", ")" and "*" with a number, as in "(LLLG)*3"'),
        ("L*2*2", '\'*\' at character 4 is no layer; write letters, "(", ")" and "*" with a number, as in "(LLLG)*3"'),
        ("Lg", "'g' at character 2 is a small letter; write 'G'"),
        ("L*1001", "more than 1000 layers; repeat less"),
        ("(((L*99)*99)*99)*99", "more than 1000 layers; repeat less"),
        ("L*" + "9" * 5000, "more than 1000 layers; repeat less"),
        (
            "L[L]*2",
            '\'[\' at character 2 is no whole loop; write "[" layers "]^" and a number of 2 or more, outside '
            'parentheses, as in "LL[LG]^3L"',
        ),
        ("L[G]^1", "'^1' at character 5 loops nothing; loop twice or more"),
        ("(L[G]^2)*2", "'[' at character 3 stands in parentheses; write the loop outside them"),
        ("L[]^2", 'no layer; name layers by letter, as in "(LLLG)*3"'),
        ("[L*2]^501", "more than 1000 layers; repeat less"),
        ("(" * (DEEPEST + 1) + "L", f"parentheses nested deeper than 32 at character {DEEPEST + 1}; write it flatter"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        expand(text)
    assert str(error.value) == message
