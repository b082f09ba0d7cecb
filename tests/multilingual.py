"""Text in many scripts, and everything in it that tokenizers and Unicode treat in ways of their own."""

from __future__ import annotations

import unicodedata

SENTENCES = [
    "The quick brown fox jumps over the lazy dog; it's 3,14 or 2,500, isn't it?",
    "Die Größe der Straße überrascht; ÄÖÜ und ß, NAÏVE Café Ærøskøbing.",
    "Être ou ne pas être, là est la question : « voilà » — œuvre.",
    "İstanbul'da ışık, IĞDIR ve iğdır; Diyarbakır'ın İĞNESİ.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "ΟΔΥΣΣΕΥΣ, ὁ πολύτροπος ἀνήρ· Σίσυφος.",
    "مرحبا بالعالم، كَيْفَ حَالُكَ؟ العربيّة ١٢٣",
    "שָׁלוֹם עוֹלָם, עברית",
    "我能吞下玻璃而不伤身体。東京都に住んでいます。カタカナ、ｶﾞ、㌔グラム",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요. 한글",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती।",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ น้ำ",
    "Tôi có thể ăn thủy tinh mà không hại gì. Tiếng Việt",
    "😀😃 👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ ☕︎ ✨",
]

# What a tokenizer may stumble over.
STRANGE = [
    "",
    " ",
    "   ",
    "\n\t \r\n",
    "a",
    "  two  spaces   and    more     ",
    "tab\tnew\nline\r\nreturn\x85next\u2028line\u2029paragraph\xa0no-break\u3000wide",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffmark\u2060word\xadsoft",
    "e\u0301 é a\u0308\u0323 a\u0323\u0308 \u0301alone o\u0302\u0301 Å \u212b \u1e9b\u0323",
    "ﬁ ﬂ ½ ² Ⅳ ℃ ﷺ Ａｂｃ １２３ …",
    "\0\x01\x7f\ufffd\ufffe\U0010ffff",
    "``quoted'' ''doubly``",
    "x" * 250,
    "中" * 250,
    "a1b2c3 3rd 10,000, 5, 1.5 -7",
    "I'll we've don't I'M THEY'RE 'tis",
    "<s> </s> <unk> <pad> <mask> a <mask> b<mask>c [CLS][SEP] [MASK] [UNK] [PAD]",
    "<S> <MASK> [cls] [Mask] [sep]",
    "▁under ▁▁bars __ _",
    "İ i̇ ı I ǅ ŉ ẞ",
    "\u1112\u1161\u11ab \uac00\u11a8",
    "\U0001d504\U0001d518 \U00020000\U0002a6d6",
]

TEXTS = [
    *SENTENCES,
    *(unicodedata.normalize(form, text) for text in SENTENCES for form in ("NFD", "NFKC")),
    *STRANGE,
    " ".join(SENTENCES),
]
