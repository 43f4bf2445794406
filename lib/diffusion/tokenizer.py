"""Small CLIP tokenizers and text encoders, made for one corpus of captions."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

EMBEDDING_SCALE = 20  # times CLIP's 0.02
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: Iterable[str], vocabulary: int, tokens: int) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's rules: every string has tokens, a caption's words one each."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip = CLIPTokenizer().backend_tokenizer  # CLIP's own lower-casing and splitting
    bpe.normalizer, bpe.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(captions, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[START, END], show_progress=False,
        initial_alphabet=alphabet, end_of_word_suffix="</w>"))
    model = json.loads(bpe.to_str())["model"]
    vocab = dict(model["vocab"])
    for byte in sorted(alphabet):  # also as the last of a word: emoji and other scripts need it
        vocab.setdefault(byte + "</w>", len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]],
                         model_max_length=tokens)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """CLIP's text transformer in miniature (n, tokens) -> (n, tokens, width), untrained.

    Token embeddings start 20 times larger than CLIP's: else the words of a caption drown in what
    all captions share, and a short training learns the medium of a picture and never its class.
    """
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (START, END))
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=max(1, width // 32),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=start, eos_token_id=end, pad_token_id=end))
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
    return encoder


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """Token ids (n, tokens), and which prompts were too long and were cut."""
    longest = tokenizer.model_max_length
    ids = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True,
                    return_tensors="pt").input_ids
    lengths = [len(row) for row in tokenizer(prompts, verbose=False).input_ids]
    return ids, [index for index, length in enumerate(lengths) if length > longest]
