"""Stop texts are found wherever the text is cut, and nothing that may become one is shown."""

from hypothesis import given
from hypothesis import strategies as st

from attendant_server.gateway.stop_texts import StopMatcher

TEXTS = st.text(alphabet="abé", max_size=24)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), max_size=4)


def _by_characters(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The plain definition: read one character at a time; the first stop text that is complete ends it, the longest of several."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(TEXTS, STOPS, st.data())
def test_the_cut_does_not_depend_on_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher, shown, rest, found = StopMatcher(stops), "", text, None
    expected, expected_stop = _by_characters(text, stops)
    while rest and found is None:
        size = data.draw(st.integers(1, len(rest)))
        matched = matcher.push(rest[:size])
        rest, found = rest[size:], matched.stop_text
        shown += matched.text
        assert expected.startswith(shown), "something was shown that had to be held back"
    if found is None:
        shown += matcher.finish()
    assert (shown, found) == (expected, expected_stop)


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    matcher = StopMatcher(["</end>"])
    assert matcher.push("a</e").text == "a"
    assert matcher.push("vil").text == "</evil"
    assert matcher.push("</end").text == ""
    assert matcher.finish() == "</end"
