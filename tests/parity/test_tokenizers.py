"""Every tokenizer class and every way to store it gives the ids that transformers gives."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")  # by which transformers reads what sentencepiece writes

from fabricate import bert_config, rows, write_json  # noqa: E402
from folder_checks import read  # noqa: E402
from multilingual import SENTENCES, TEXTS  # noqa: E402
from tokenizers import (  # noqa: E402
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
CORPUS = SENTENCES * 3
# RoBERTa's mask: version 4 of transformers gives it these flags wherever it comes from, 5 where the folder says so.
MASK = AddedToken("<mask>", lstrip=True, special=True)
IS_VERSION_4 = transformers.__version__.startswith("4.")


@pytest.fixture(scope="module")
def wordpieces() -> list[str]:
    """The tokens of a WordPiece vocabulary trained on the sentences, special tokens left out."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    lowered = [text.lower() for text in CORPUS]
    backend.train_from_iterator(CORPUS + lowered, trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]"]))
    vocabulary = backend.get_vocab()
    return sorted(vocabulary.keys() - {"[UNK]"}, key=vocabulary.__getitem__)


def byte_level(specials: list[str], normalizer=None) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.ByteLevel()
    return backend


def spm_file(folder, *, name: str, **options):
    """A real SentencePiece model."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text.replace("\r", "") for text in CORPUS * 4), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "spm"),
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "spm.vocab").unlink()
    corpus.unlink()
    (folder / "spm.model").rename(folder / name)
    return folder / name


def folder_of(tmp_path, model_type: str, tokenizer_class: str | None, **settings):
    config = bert_config(vocab_size=5000, max_position_embeddings=4000)
    write_json(tmp_path / "config.json", config)
    if tokenizer_class is not None:
        settings = {"tokenizer_class": tokenizer_class, **settings}
    if settings:
        write_json(tmp_path / "tokenizer_config.json", settings)
    return tmp_path


def as_converted(folder, name: str):
    """The tokenizer that transformers' converter makes of a SentencePiece file, as published `tokenizer.json` were.

    Up to version 4 it is what `from_pretrained` gives. Since 5 that takes the pieces alone from the file and puts steps
    of its own around them, which split at all white space of Unicode, as neither the converter nor SentencePiece does.
    """
    theirs = getattr(transformers, f"{name}Fast").from_pretrained(folder)
    if IS_VERSION_4:
        return theirs
    backend = SLOW_TO_FAST_CONVERTERS[name](theirs).converted()
    backend.add_special_tokens([AddedToken(theirs.mask_token, lstrip=True)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **theirs.special_tokens_map)


def assert_same_ids(folder, tokenizer_class: str, **changes) -> None:
    theirs = getattr(transformers, tokenizer_class).from_pretrained(folder, **changes)
    assert_same_ids_as(theirs, folder)


def assert_same_ids_as(theirs, folder) -> None:
    assert theirs.is_fast
    ours = read(folder)
    ours.max_seq_length = ours.max_positions
    expected = theirs(TEXTS)["input_ids"]
    for text, mine, wanted in zip(TEXTS, rows(ours.encode(TEXTS)), expected, strict=True):
        assert mine == wanted, (text, theirs.convert_ids_to_tokens(wanted), theirs.convert_ids_to_tokens(mine))
    # Truncation at every length, and a short batch in a row with long ones.
    for length in (2, 3, 17, 64):
        ours.max_seq_length = length
        wanted = theirs(TEXTS, truncation=True, max_length=length)["input_ids"]
        assert rows(ours.encode(TEXTS)) == wanted


def saved_by_transformers(folder, tokenizer_class: str, **change) -> None:
    """Read the vocabulary files with transformers and write what `save_pretrained` writes, tokenizer.json included."""
    theirs = getattr(transformers, tokenizer_class).from_pretrained(folder, **change)
    theirs.save_pretrained(folder)
    assert (folder / "tokenizer.json").exists()


# ---- WordPiece -----------------------------------------------------------------------------------------------------

WORDPIECE_SETTINGS = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", WORDPIECE_SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"])
def test_wordpiece(tmp_path, wordpieces, name, settings):
    specials = BERT if name != "MPNetTokenizer" else ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    folder = folder_of(tmp_path, "bert", name, **settings)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in specials + wordpieces), encoding="utf-8")
    assert_same_ids(folder, f"{name}Fast")
    saved_by_transformers(folder, f"{name}Fast")
    assert_same_ids(folder, f"{name}Fast")
    (folder / "vocab.txt").unlink()
    assert_same_ids(folder, "AutoTokenizer")


# ---- byte-level BPE ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}], ids=str)
def test_byte_level_bpe(tmp_path, settings):
    folder = folder_of(tmp_path, "roberta", "RobertaTokenizer", **settings)
    model = json.loads(byte_level(ROBERTA).to_str())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    assert_same_ids(folder, "RobertaTokenizerFast", mask_token=MASK)
    saved_by_transformers(folder, "RobertaTokenizerFast")
    assert_same_ids(folder, "AutoTokenizer")


def test_a_prefix_space_is_the_settings_own(tmp_path):
    """A tokenizer.json that puts a space first, in a folder that does not say so."""
    for number, settings in enumerate([{}, {"add_prefix_space": True}, {"add_prefix_space": False}]):
        folder = folder_of(tmp_path / str(number), "roberta", "RobertaTokenizer", **settings)
        backend = byte_level(ROBERTA)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        backend.add_special_tokens([MASK])
        backend.save(str(folder / "tokenizer.json"))
        assert_same_ids(folder, "RobertaTokenizerFast")


def test_modernbert(tmp_path):
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    backend = byte_level(specials, normalizers.NFC())
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    backend.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    backend.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in (4, 2)])
    folder = folder_of(tmp_path, "modernbert", None)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    theirs.save_pretrained(folder)
    assert_same_ids(folder, "PreTrainedTokenizerFast")


# ---- Unigram -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity", "nmt_nfkc_cf"])
@pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "CamembertTokenizer"])
def test_fairseq_sentencepiece(tmp_path, name, rule):
    folder = folder_of(tmp_path, "xlm-roberta", name)
    spm_file(folder, name="sentencepiece.bpe.model", normalization_rule_name=rule)
    assert_same_ids_as(as_converted(folder, name), folder)
    saved_by_transformers(folder, f"{name}Fast")
    (folder / "sentencepiece.bpe.model").unlink()
    assert_same_ids(folder, f"{name}Fast")


def test_published_xlm_roberta(tmp_path):
    """The tokenizer.json of XLM-R on the hub has a pre-tokenizer of two steps and no normalizer but the charsmap."""
    folder = folder_of(tmp_path, "xlm-roberta", "XLMRobertaTokenizer")
    spm_file(folder, name="sentencepiece.bpe.model")
    as_converted(folder, "XLMRobertaTokenizer").save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = content["normalizer"]["normalizers"][0]
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, content["pre_tokenizer"]],
    }
    write_json(folder / "tokenizer.json", content)
    assert_same_ids(folder, "XLMRobertaTokenizerFast")


@pytest.mark.parametrize(
    "settings", [{}, {"keep_accents": True}, {"do_lower_case": False}, {"do_lower_case": False, "keep_accents": True}]
)
def test_albert(tmp_path, settings):
    folder = folder_of(tmp_path, "albert", "AlbertTokenizer", **settings)
    spm_file(
        folder,
        name="spiece.model",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols="[CLS],[SEP],[MASK]",
        user_defined_symbols="(,),£",
        split_digits=False,
    )
    assert_same_ids_as(as_converted(folder, "AlbertTokenizer"), folder)
    saved_by_transformers(folder, "AlbertTokenizerFast")
    (folder / "spiece.model").unlink()
    assert_same_ids(folder, "AlbertTokenizerFast")


# ---- added tokens --------------------------------------------------------------------------------------------------

ADDED = [
    AddedToken("covid19", normalized=True),
    AddedToken("[E1]", special=True),
    AddedToken("Größe", lstrip=True, rstrip=True, normalized=False),
    AddedToken("it", single_word=True),
]


@pytest.mark.parametrize("without", [(), ("tokenizer.json",), ("tokenizer_config.json",)], ids=str)
def test_added_tokens(tmp_path, wordpieces, without):
    folder = folder_of(tmp_path, "bert", "BertTokenizer")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in BERT + wordpieces), encoding="utf-8")
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    theirs.add_tokens(ADDED)
    theirs.save_pretrained(folder)
    for name in without:
        (folder / name).unlink()
    assert_same_ids(folder, "BertTokenizerFast")


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_of_old_folders(tmp_path, wordpieces, special):
    folder = folder_of(tmp_path, "bert", "BertTokenizer")
    vocabulary = BERT + wordpieces
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    write_json(folder / "added_tokens.json", {"2,500": len(vocabulary) + 1, "isn't": len(vocabulary)})
    if special:
        write_json(folder / "special_tokens_map.json", {"mask_token": "2,500", "cls_token": {"content": "isn't"}})
    assert_same_ids(folder, "BertTokenizerFast")


def test_padding_truncation_and_sides_of_the_file_change_nothing(tmp_path, wordpieces):
    folder = folder_of(tmp_path, "bert", "BertTokenizer")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in BERT + wordpieces), encoding="utf-8")
    before = rows(read(folder).encode(TEXTS))
    saved_by_transformers(folder, "BertTokenizerFast", padding_side="left")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_padding(direction="left", length=50)
    backend.enable_truncation(7, stride=2, strategy="only_first")
    backend.save(str(folder / "tokenizer.json"))
    assert rows(read(folder).encode(TEXTS)) == before


def test_special_tokens_as_text_where_the_settings_say_so(tmp_path, wordpieces):
    folder = folder_of(tmp_path, "bert", "BertTokenizer", split_special_tokens=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in BERT + wordpieces), encoding="utf-8")
    assert_same_ids(folder, "BertTokenizerFast")


def test_a_family_has_the_class_that_it_has_in_transformers():
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    from sentpool.architectures import ARCHITECTURES
    from sentpool.tokenizer_kinds import KINDS

    def kind(name):
        # Version 5 has one class where 4 had several that differ in nothing but their names.
        return replace(KINDS[name.removesuffix("Fast")], name="")

    for row in ARCHITECTURES:
        if row.model_type in TOKENIZER_MAPPING_NAMES:
            names = TOKENIZER_MAPPING_NAMES[row.model_type]
            theirs = names if isinstance(names, str) else names[0] or names[1]
            theirs = theirs.replace("TokenizersBackend", "PreTrainedTokenizer")
            assert kind(row.tokenizer) == kind(theirs), row.model_type
