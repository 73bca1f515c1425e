"""The masker: every form of a secret is masked, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import random
import string
import textwrap
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counts import examples
from fractale.masking import Masker

PEM = "-----BEGIN KEY-----\n{}\n-----END KEY-----".format(
    "\n".join(base64.b64encode(random.Random(n).randbytes(48)).decode() for n in range(6))
)
SECRETS = {
    "plain": "canary-4f81c0d9aa",
    "signs": 'pa"ss\\wo/rd+%&=<x>1',
    "spaces": "correct horse 'battery' staple",
    "unicode": "pässwörd-\U0001f511-日本",
    "escapes": "a%41b\\n\\u0041-tail",
    "pem": PEM,
}


def base64_within(secret: str, before: str, after: str) -> str:
    return base64.b64encode(f"{before}{secret}{after}".encode()).decode()


FORMS = {
    "raw": lambda s: s,
    "json": lambda s: json.dumps(s),
    "json, all characters": lambda s: json.dumps(s, ensure_ascii=False),
    "json in json": lambda s: json.dumps(json.dumps({"password": s})),
    "json with slashes": lambda s: json.dumps(s).replace("/", "\\/"),
    "url": lambda s: quote(s),
    "url, everything": lambda s: "".join(f"%{byte:02x}" for byte in s.encode()),
    "url, small letters": lambda s: quote(s, safe="").replace("%2B", "%2b").replace("%3D", "%3d"),
    "query": lambda s: quote_plus(s),
    "html": lambda s: html.escape(s),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64, no padding": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "base64 for urls": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64 in a url": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "base64, one before": lambda s: base64_within(s, "u", "x"),
    "base64, two before": lambda s: base64_within(s, "u:", ""),
    "base64 of json": lambda s: base64.b64encode(json.dumps({"p": s}).encode()).decode(),
    "base64 folded": lambda s: base64.encodebytes(f"user:{s}, and more".encode()).decode(),
    "hex": lambda s: s.encode().hex(),
    "hex with colons": lambda s: s.encode().hex(":"),
    "HEX with colons": lambda s: s.encode().hex(":").upper(),
    "folded at carriage returns": lambda s: "\r".join(s[i : i + 5] for i in range(0, len(s), 5)),
    "folded": lambda s: "\n    ".join(textwrap.wrap(s, 9, break_on_hyphens=False)),
    "folded in json": lambda s: json.dumps("\n".join(s[i : i + 5] for i in range(0, len(s), 5))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SECRETS)
def test_each_form_of_a_secret_is_masked_and_what_is_around_it_stays(name, form):
    secret = SECRETS[name]
    if form.startswith("folded") and "json" not in form and " " in secret:
        pytest.skip("folded at its own spaces it has lost these")
    if form.startswith("folded") and name == "pem":
        pytest.skip("it has lines of its own, which are tested as such")
    if form == "folded in json" and name == "escapes":
        pytest.skip("its own escapes are cut")
    written = FORMS[form](secret)
    masked = Masker([secret]).text(f"before it: {written} : after it")
    assert masked.startswith("before it: ")
    assert masked.endswith(" : after it")
    assert "***" in masked
    for piece in pieces_of(secret, written):
        assert piece not in masked


def pieces_of(secret: str, written: str) -> set[str]:
    """Parts of the written form that would give a good part of the secret away."""
    if written == secret:
        return {line for line in secret.splitlines() if not line.startswith("-----")}
    middle = len(written) // 2
    return {written[middle - 6 : middle + 6]}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("encode", [str, json.dumps, quote])
def test_a_line_alone_of_a_secret_of_several_is_masked(secret, encode):
    for line in secret.splitlines():
        if not line.startswith("-----"):
            assert Masker([secret]).text(encode(line)).strip('"') == "***"


@pytest.mark.parametrize("form", ["json", "json in json"])
def test_a_secret_that_ends_in_a_backslash_is_masked_beside_a_quote(form):
    secret = "000000\xa0\\"
    masked = Masker([secret]).text(f"\t{FORMS[form](secret)}\t")
    assert "000000" not in masked


def test_two_secrets_one_within_the_end_of_the_other():
    masker = Masker(["abcdefghij", "fghijklmnop"])
    assert masker.text("-abcdefghijklmnop-") == "-***-"


def test_keys_and_values_of_data_are_masked_and_all_else_stays():
    secret = SECRETS["plain"]
    value = {secret: [1, True, None, 2.5, ("x", f"<{secret}>")], "b": {"c": secret}}
    expected = {"***": [1, True, None, 2.5, ["x", "<***>"]], "b": {"c": "***"}}
    assert Masker([secret])(value) == expected


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("pin hunter", "pin ***"),
        ("hunter2 and hunters and bounty_hunter", "hunter2 and hunters and bounty_***"),
        ('{"a": "x\\nhunter"}', '{"a": "x\\n***"}'),
        ("q=hunter&b", "q=***&b"),
        ("%20hunter", "%20***"),
        (base64.b64encode(b"hunter").decode(), "***"),
    ],
)
def test_a_short_secret_is_masked_where_it_is_a_word(text, masked):
    assert Masker(["hunter"]).text(text) == masked


@settings(max_examples=examples(200), deadline=None)
@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=8),
    before=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    after=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    form=st.sampled_from(["raw", "json", "json in json", "url", "query", "base64", "hex"]),
)
def test_any_secret_is_masked_in_any_form_and_masking_twice_changes_nothing(
    secret, before, after, form
):
    if len(secret.strip()) < 8 or secret.strip().isdecimal():
        return
    written = FORMS[form](secret)
    masker = Masker([secret])
    masked = masker.text(f"{before}\t{written}\t{after}")
    assert written.strip() not in masked.replace("***", "")
    assert masker.text(masked) == masked


WORDS = st.text(string.ascii_letters + string.digits + " \n\t\\%&;\"'/+=-_.{}[]:,", max_size=300)


@settings(max_examples=examples(300), deadline=None)
@given(text=WORDS)
def test_ordinary_text_stays_as_it_is(text):
    secrets = ["canary-4f81c0d9aa", PEM, "hunter", "s3cr3t/with+signs="]
    if "hunter" not in text:
        assert Masker(secrets).text(text) == text


PACKED = [form for name, form in FORMS.items() if "base64" in name]
"""Their first character may have a few bits of the secret, and be told before the rest is known."""


@settings(max_examples=examples(500), deadline=None)
@given(data=st.data())
def test_a_stream_is_masked_however_it_is_cut_into_pieces(data):
    secrets = [SECRETS["plain"], SECRETS["signs"], "hunter"]
    parts = data.draw(
        st.lists(
            st.sampled_from(
                [
                    *(form(secret) for secret in secrets for form in FORMS.values()),
                    " and hunters ",
                    "canary-4f81",
                    "plain words\n",
                    "\\",
                    " ",
                ]
            ),
            max_size=6,
        )
    )
    text = " ".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    told: list[str] = []
    masker = Masker(secrets)
    stream = masker.stream(told.append)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        stream.feed(text[start:end])
    stream.end()
    assert masker.text("".join(told)) == "".join(told), "nothing is left to mask"
    if not any(form(secret) in parts for secret in secrets for form in PACKED):
        assert "".join(told) == masker.text(text)


def test_a_stream_of_ordinary_text_is_not_held_back():
    told: list[str] = []
    stream = Masker(["canary-4f81c0d9aa", PEM]).stream(told.append)
    for word in ("The ", "answer ", "is ", "42 ", "and ", "so ", "on. "):
        stream.feed(word)
        assert told[-1].strip() == word.strip()


def test_bytes_that_are_text_are_masked_and_others_stay():
    masker = Masker(["canary-4f81c0d9aa"])
    assert masker.data(b"x canary-4f81c0d9aa \xff") == b"x *** \xff"
    assert masker.data(b"\0canary-4f81c0d9aa") == b"\0canary-4f81c0d9aa"


def test_a_masker_without_secrets_gives_back_the_very_value():
    value = {"a": ["b"]}
    assert Masker()(value) is value
    assert not Masker(["", "  ", None])
