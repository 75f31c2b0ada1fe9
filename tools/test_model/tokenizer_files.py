"""Two small tokenizers: CLIP's kind (byte pairs with word ends) and T5's kind (Unigram)."""

import math
from collections import Counter

from captions import captions
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
SPACE = "▁"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte, as in `bytes_to_unicode` of GPT-2 and CLIP."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def clip(size: int) -> Tokenizer:
    """A vocabulary of `size` tokens whose last two are the start and the end of a text.

    The merges are found here and not by `BpeTrainer`, which breaks ties another way each time.
    """
    # Every byte that lower-case UTF-8 has inside a word, and every one that can end it: nothing is ever unknown.
    ascii_bytes = [byte for byte in range(0x21, 0x7F) if not chr(byte).isupper()]
    ends = [*ascii_bytes, *range(0x80, 0xC0)]
    letters = byte_letters()
    tokens = [letters[byte] for byte in [*ends, *range(0xC2, 0xF5)]]
    tokens += [letters[byte] + WORD_END for byte in ends]
    merges = frequent_merges(size - len(tokens) - 2)
    tokens += ["".join(merge) for merge in merges]
    tokens += [START, END]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    assert len(vocabulary) == size, "two merges make one token, or there are too few merges"

    result = Tokenizer(models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix=WORD_END))
    result.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    result.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    result.post_processor = processors.RobertaProcessing(
        sep=(END, vocabulary[END]), cls=(START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    result.decoder = decoders.ByteLevel()
    return result


def frequent_merges(count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding: the most frequent pair of neighbours becomes one token, again and again."""
    words = [([*word[:-1], word[-1] + WORD_END], number) for word, number in counted_words().items()]
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for tokens, number in words:
            for pair in zip(tokens, tokens[1:]):
                pairs[pair] += number
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for tokens, _ in words:
            for at in range(len(tokens) - 1, 0, -1):
                if tuple(tokens[at - 1 : at + 1]) == best:
                    tokens[at - 1 : at + 1] = ["".join(best)]
    return merges


def counted_words() -> Counter:
    return Counter(" ".join(captions()).replace("-", " - ").replace(",", " , ").split())


def t5(size: int) -> Tokenizer:
    """A vocabulary of `size` pieces that starts with padding, the end of a text and what is unknown.

    The pieces are counted, not trained: `UnigramTrainer` does not give the same scores twice.
    """
    special = ["<pad>", "</s>", "<unk>"]
    words, parts = Counter(), Counter()
    for word, number in counted_words().items():
        words[SPACE + word] += number
        for length in (2, 3, 4):
            for at in range(len(word) - length + 1):
                parts[word[at : at + length]] += number
    letters = [SPACE, *map(chr, range(0x21, 0x7F))]
    frequent = sorted(words, key=lambda word: (-words[word], word))
    frequent += sorted(parts, key=lambda part: (-parts[part] * len(part), part))
    pieces = list(dict.fromkeys(letters + frequent))[: size - len(special)]
    total = sum(words.values())
    # A letter alone is the last resort: below every counted piece, so that fewer pieces are always better.
    scores = {piece: math.log((words[piece] or parts[piece] or 1) / (10 * total)) for piece in pieces}
    scores |= {letter: math.log(0.1 / (10 * total)) for letter in letters}
    vocabulary = [(token, 0.0) for token in special] + [(piece, round(scores[piece], 4)) for piece in pieces]
    assert len(vocabulary) == size, "too few pieces"

    result = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    result.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), SPACE),
        ]
    )
    result.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    result.add_special_tokens([AddedToken(token, special=True) for token in special])
    result.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    result.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return result
