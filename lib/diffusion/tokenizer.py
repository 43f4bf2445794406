"""The shipped model's words: a small CLIP tokenizer and text encoder, made for one corpus of captions."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

APART = 20  # times CLIP's 0.02
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: Iterable[str], vocabulary: int, tokens: int) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's rules: every string has tokens, the words of the captions have one each."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    cut = CLIPTokenizer().backend_tokenizer  # CLIP's own lower-casing and splitting
    bpe.normalizer, bpe.pre_tokenizer = cut.normalizer, cut.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[START, END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>")
    bpe.train_from_iterator(captions, trainer)
    vocab, merges = _with_lone_bytes(bpe)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=tokens)


def _with_lone_bytes(bpe: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges, with every byte also as a word's last: emoji and foreign scripts need them."""
    model = json.loads(bpe.to_str())["model"]
    vocab = dict(model["vocab"])
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(byte + "</w>", len(vocab))
    return vocab, [tuple(pair) for pair in model["merges"]]


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """CLIP's text transformer in miniature (n, tokens) -> (n, tokens, width), untrained.

    Its words start far apart: with CLIP's own start (0.02) those of a caption drown in what all captions share, and a short
    training learns the medium of a picture and never its class.
    """
    ends = {name: tokenizer.convert_tokens_to_ids(token) for name, token in
            (("bos_token_id", START), ("eos_token_id", END), ("pad_token_id", END))}
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32), max_position_embeddings=tokenizer.model_max_length, **ends))
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(APART)
    return encoder


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """Token ids (n, tokens), and which prompts did not fit and were cut."""
    longest = tokenizer.model_max_length
    ids = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt").input_ids
    lengths = [len(row) for row in tokenizer(prompts, verbose=False).input_ids]
    return ids, [index for index, length in enumerate(lengths) if length > longest]
