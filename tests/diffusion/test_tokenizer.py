"""The tokenizer takes any string and the encoder any tokens."""

from lib.diffusion.tokenizer import build_text_encoder, tokenize
from tests.diffusion import tiny


def test_known_words_have_one_token():
    words = tiny.tokenizer()
    assert len(words("a red cube").input_ids) == 5  # start, three words, end


def test_any_string_survives():
    words = tiny.tokenizer()
    for text in ('a "quoted" cube', "it's </b>", "\N{SLIGHTLY SMILING FACE}", "\u65e5\u672c", "",
                 "xyzzy"):
        ids = words(text).input_ids
        assert words.convert_tokens_to_ids("<|endoftext|>") not in ids[1:-1]  # nothing is unknown
        assert words.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_long_prompts_are_cut_and_named():
    words = tiny.tokenizer()
    ids, cut = tokenize(words, ["a cube", "cube " * 500])
    assert ids.shape == (2, 12) and cut == [1]
    assert ids[1, -1] == words.eos_token_id


def test_encoder_sees_order():
    words = tiny.tokenizer()
    encoder = build_text_encoder(words, 16, 1)
    ids = tokenize(words, ["a red cube", "a cube red"])[0]
    first, second = encoder(ids)[0]
    assert first.shape == (12, 16) and (first - second).abs().max() > 1e-3
