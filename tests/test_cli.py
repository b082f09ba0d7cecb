"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import contextmanager

import numpy as np
import pytest
from fabricate import bert_folder

import sentpool
from sentpool import cli, sentence_file
from sentpool._version import __version__
from sentpool.commands import VERBS
from sentpool.errors import warn

EncodeInfo = namedtuple("EncodeInfo", "n_truncated n_tokens")


class FakeEncoder:
    """Stands for SentenceEncoder where only the command line is tested: a text becomes length and vowels."""

    seen: list[dict]

    def __init__(self, path, pooling=None, **precision):
        if path == "missing":
            raise FileNotFoundError(2, "No such file or directory", "missing")
        self.pooling = pooling
        FakeEncoder.seen = []

    def encode_with_info(self, sentences, **options):
        FakeEncoder.seen.append({"sentences": list(sentences), **options})
        rows = [[len(s), sum(s.count(v) for v in "aeiou")] for s in sentences]
        return np.array(rows, dtype=np.float32).reshape(-1, 2), EncodeInfo(sum(len(s) > 50 for s in sentences), 0)

    def encode(self, sentences, **options):
        return self.encode_with_info(sentences, **options)[0]

    def provenance(self):
        return {"name": "fake", "pooling": self.pooling or "mean"}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(sentpool, "SentenceEncoder", FakeEncoder)


def run(capsys, *arguments):
    """Exit status, stdout and stderr of one command line."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def assert_one_line(stderr, pattern):
    assert re.fullmatch(rf"sentpool: error: .*{pattern}.*\n", stderr), stderr


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"sentpool {__version__}\n", "")


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_each_verb_has_an_example(capsys, verb):
    status, out, _ = run(capsys, verb, "--help")
    assert status == 0
    example = out.split("example: ")[1].split()
    assert example[:2] == ["sentpool", verb]
    cli._parser().parse_args(example[1:])


@pytest.mark.parametrize(
    "arguments, pattern",
    [
        ([], "VERB"),
        (["dance"], "invalid choice: 'dance'"),
        (["sts"], "MODEL"),
        (["sts", "m", "--threads", "0"], "--threads: '0' is not a positive integer"),
        (["sts", "m", "--batch-size", "two"], "--batch-size: 'two' is not a positive integer"),
        (["encode", "m", "-"], "--output"),
        (["encode", "m", "-", "--output", "x", "--prompt", "a", "--prompt-name", "b"], "not allowed with"),
    ],
)
def test_wrong_command_lines(capsys, arguments, pattern):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert_one_line(err, pattern)


def test_sts_without_data_scores_the_sample(capsys, fake, tmp_path):
    status, out, err = run(capsys, "sts", "m", "--pooling", "cls", "--output", tmp_path / "x.json")
    assert (status, err) == (0, "")
    assert "bundled sample" in out
    assert re.search(r"^sample +200( +-?\d+\.\d\d){6}$", out, re.M)
    assert re.search(r"^model loaded in \d+\.\d\d s, 400 sentences encoded in \d+\.\d\d s", out, re.M)
    saved = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert saved["model"] == {"name": "fake", "pooling": "cls"}
    assert saved["seconds"].keys() == {"load", "read", "encode", "score"}


def test_sts_with_data_and_options(capsys, fake, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.tsv").write_text("1\tone\tthree\n5\tsame\tsame\n3\tfive\tfives\n")
    status, out, _ = run(capsys, "sts", "m", tmp_path / "mine", "--tasks", "mine", "--threads", 2, "--batch-size", 8)
    assert status == 0
    assert re.search(r"^mine +3 ", out, re.M)
    assert {k: FakeEncoder.seen[0][k] for k in ("threads", "batch_size")} == {"threads": 2, "batch_size": 8}


def test_a_terminal_without_the_signs_of_the_table(fake, monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert cli.main(["sts", "m"]) == 0
    assert b"Spearman ?100" in output.getvalue()


@pytest.mark.parametrize(
    "arguments, pattern",
    [
        (["missing"], "missing: No such file or directory"),
        (["m", "nowhere"], "STS folder 'nowhere' does not exist: expected SentEval's layout"),
        (["m", "--tasks", "STS99"], "unknown task 'STS99'"),
        (["m", "--output", "nowhere/x.json"], "there is no folder"),
    ],
)
def test_sts_errors(capsys, fake, monkeypatch, tmp_path, arguments, pattern):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "sts", *arguments)
    assert status == 1
    assert_one_line(err, pattern)
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(capsys, fake, monkeypatch):
    def noisy(self):
        warn("first\n  second")
        return {"name": "noisy"}

    monkeypatch.setattr(FakeEncoder, "provenance", noisy)
    status, _, err = run(capsys, "sts", "m")
    assert (status, err) == (0, "sentpool: warning: first second\n")


@pytest.mark.parametrize(
    "error, line",
    [
        (RuntimeError("so\nit goes"), "RuntimeError: so it goes"),
        (MemoryError(), "out of memory"),
        (KeyError("name"), "KeyError: 'name'"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError(), "ValueError: "),
    ],
)
def test_any_error_is_one_line(capsys, fake, monkeypatch, error, line):
    def fails(self):
        raise error

    monkeypatch.setattr(FakeEncoder, "provenance", fails)
    status, _, err = run(capsys, "sts", "m")
    assert (status, err) == (1, f"sentpool: error: {line}\n")
    with pytest.raises(type(error)):
        cli.main(["--traceback", "sts", "m"])


def test_search(capsys, fake, tmp_path):
    corpus, index = tmp_path / "corpus.txt", tmp_path / "index"
    corpus.write_text("aaa\nbcd\naab\n")
    options = ["--query", "aa", "--query", "xyz", "-k", 2, "--save", index, "--json", tmp_path / "x.json"]
    status, out, err = run(capsys, "search", "m", corpus, *options)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "aa" and lines[1].split() == ["1.0000", "0", "aaa"] and lines[4] == "xyz"
    assert re.fullmatch(r"model loaded in .* s, 3 texts encoded in .* s, 2 queries answered in .* s", lines[-3])
    found = json.loads((tmp_path / "x.json").read_text())
    assert [hit["id"] for hit in found["results"][0]["hits"]] == [0, 2]
    (tmp_path / "queries.txt").write_text("aa\n")
    status, out, _ = run(capsys, "search", "m", index, "--queries", tmp_path / "queries.txt", "--metric", "euclidean")
    assert (status, len(out.splitlines())) == (0, 6)
    assert out.splitlines()[1].split() == ["-1.0000", "2", "aab"]
    for extra, pattern in (
        (["--save", tmp_path / "y"], "--save is about texts, and .* is an index"),
        (["--json", "nowhere/x.json"], "there is no folder"),
    ):
        status, _, err = run(capsys, "search", "m", index, "--query", "a", *extra)
        assert status == 1
        assert_one_line(err, pattern)
    status, _, err = run(capsys, "search", "m", corpus, "--query", "a", "--save", index)
    assert_one_line(err, "the folder exists and is not empty")
    assert run(capsys, "search", "m", corpus)[0] == 2


def test_retrieval(capsys, fake, tmp_path):
    pytest.importorskip("ir_measures")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "aaa"}\n{"_id": "b", "title": "b", "text": "bcd"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "bbbb"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\n")
    options = ["--measures", "RR,P@1", "--query-prompt", "", "--json", tmp_path / "x.json"]
    status, out, err = run(capsys, "retrieval", "m", tmp_path, *options)
    assert (status, err) == (0, "")
    assert re.search(r"^RR +1\.0000 +1\.0000 +1\.0000$", out, re.M)
    assert [call["sentences"] for call in FakeEncoder.seen] == [["bbbb"], ["aaa", "b bcd"]]
    assert json.loads((tmp_path / "x.json").read_text())["measures"] == {"RR": 1.0, "P@1": 1.0}
    status, _, err = run(capsys, "retrieval", "m", tmp_path, "--split", "dev")
    assert status == 1
    assert_one_line(err, r"has no qrels/dev\.tsv; there are the splits test")
    status, _, err = run(capsys, "retrieval", "m", "nowhere")
    assert_one_line(err, "retrieval folder 'nowhere' does not exist")


def test_encode_writes_a_row_per_line(capsys, fake, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_bytes("\ufeffab\r\n\na line of text\u2028still the same\nlast".encode())
    status, out, err = run(capsys, "encode", "m", source, "--output", target, "--normalize", "--prompt-name", "q")
    assert (status, err) == (0, "")
    assert FakeEncoder.seen[0]["sentences"] == ["ab", "", "a line of text\u2028still the same", "last"]
    assert FakeEncoder.seen[0]["normalize_embeddings"] is True
    assert FakeEncoder.seen[0]["prompt_name"] == "q"
    vectors = np.load(target)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [2, 0, 29, 4]
    assert np.load(target, mmap_mode="r").shape == (4, 2)
    assert "4 × 2 float32, 0 texts truncated" in out
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out.npy"]


def test_encode_goes_piece_by_piece(capsys, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(sentence_file, "PIECE_LINES", 3)
    monkeypatch.setattr(sentence_file, "PIECE_BYTES", 40)
    lines = ["a" * n for n in (1, 2, 3, 4, 60, 5, 6)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    status, out, _ = run(capsys, "encode", "m", "-", "--output", tmp_path / "out.npy")
    assert status == 0
    assert [len(call["sentences"]) for call in FakeEncoder.seen] == [3, 2, 2]
    assert np.load(tmp_path / "out.npy")[:, 0].tolist() == [1, 2, 3, 4, 60, 5, 6]
    assert "1 texts truncated" in out


def test_encode_of_nothing(capsys, fake, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert run(capsys, "encode", "m", tmp_path / "empty", "--output", tmp_path / "out.npy")[0] == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 2)


def test_encode_errors_leave_the_old_file(capsys, fake, tmp_path):
    target = tmp_path / "out.npy"
    target.write_text("old")
    (tmp_path / "in.txt").write_bytes(b"fine\nna\xefve\n")
    status, _, err = run(capsys, "encode", "m", tmp_path / "in.txt", "--output", target)
    assert status == 1
    assert_one_line(err, r"in\.txt:2: byte 3 of the line is not UTF-8")
    status, _, err = run(capsys, "encode", "m", tmp_path / "nowhere.txt", "--output", target)
    assert_one_line(err, r"nowhere\.txt: No such file or directory")
    status, _, err = run(capsys, "encode", "m", tmp_path / "in.txt", "--output", os.devnull)
    assert_one_line(err, "not a regular file")
    assert target.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out.npy"]


def test_header_is_numpys(tmp_path):
    for rows, columns in ((0, 384), (1, 1), (10**12, 10**6)):
        header = sentence_file._header(rows, columns)
        assert len(header) == 128
        file = io.BytesIO(header)
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((rows, columns), False, np.dtype("<f4"))


@contextmanager
def started(*arguments, stdout=subprocess.PIPE):
    command = [sys.executable, "-m", "sentpool", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": stdout, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_info(capsys, minilm):
    status, out, err = run(capsys, "info", minilm)
    assert (status, err) == (0, "")
    assert "bert: 6 layers, hidden 384, 12 heads, feed-forward 1536, gelu" in out
    assert re.search(r"^parameters +22,565,376 as F32 in model\.safetensors \(90\.\d MB\)$", out, re.M)
    assert re.search(r"^maximum length +256 tokens", out, re.M)
    assert re.search(r"^pooling +mean$", out, re.M)
    assert re.search(r"^head +normalize$", out, re.M)
    assert "pooler.dense.weight" in out
    assert "isa:" in out


def test_encode_equals_the_library(minilm, tmp_path):
    sentences = ["A man is playing a flute.", "", "Ein Mann spielt Flöte.", "word " * 400]
    with started("encode", minilm, "-", "--output", tmp_path / "out.npy") as process:
        out, err = process.communicate("\n".join(sentences) + "\n", timeout=60)
    assert process.returncode == 0, err
    assert "4 × 384 float32, 1 texts truncated" in out
    expected = sentpool.SentenceEncoder(minilm).encode(sentences)
    assert np.load(tmp_path / "out.npy").tobytes() == expected.tobytes()


def test_search_and_retrieval_end_to_end(minilm, tmp_path):
    """In processes of their own: texts to an index, the index asked again, BEIR's folder scored."""
    texts = ["Stocks fell on Monday.", "A cat sits on the sofa.", "It rains."]
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    (tmp_path / "queries.txt").write_text("a pet on furniture\n")
    queries = "--queries queries.txt -k 1 --threads 2"
    status, out, err = shell(f"sentpool search '{minilm}' corpus.txt {queries} --save index", tmp_path)
    assert status == 0, err
    assert out.splitlines()[1].split(maxsplit=2)[1:] == ["1", texts[1]]
    status, again, err = shell(f"cat queries.txt | sentpool search '{minilm}' index --queries - -k 1", tmp_path)
    assert (status, again.splitlines()[:2]) == (0, out.splitlines()[:2]), err
    pytest.importorskip("ir_measures")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\td1\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a pet on furniture"}')
    documents = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    status, out, err = shell(f"sentpool retrieval '{minilm}' . --measures RR --json result.json", tmp_path)
    assert status == 0, err
    assert json.loads((tmp_path / "result.json").read_text())["measures"] == {"RR": 1.0}


def test_quantize_and_what_it_wrote(tmp_path):
    """Calibrated in a process of its own; another one encodes in int8 with what was saved."""
    model = bert_folder(tmp_path / "model")
    texts = ["the cat sat on the mat", "a big dog"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n\n")
    status, out, err = shell(
        f"sentpool quantize '{model}' small --sentences texts.txt --int8 fast --json q.json", tmp_path
    )
    assert status == 0, err
    assert "int8 (fast): cosine to float32 on 2 sentences (given sentences; mean)" in out and "saved small" in out
    assert json.loads((tmp_path / "q.json").read_text())["quality"]["n"] == 2
    status, out, err = shell("sentpool encode small texts.txt --output low.npy --dtype int8 --int8 fast", tmp_path)
    assert status == 0, err
    expected = sentpool.SentenceEncoder(tmp_path / "small", dtype="int8", int8="fast").encode([*texts, ""])
    assert np.load(tmp_path / "low.npy").tobytes() == expected.tobytes()
    (tmp_path / "bytes.txt").write_bytes(b"a\n\xff\n")
    for options, message in (
        ("--sentences bytes.txt", "bytes.txt:2: byte 1 of the line is not UTF-8"),
        ("--sentences texts.txt --tasks STS12", "--tasks is about STS data"),
    ):
        status, out, err = shell(f"sentpool quantize '{model}' {options}", tmp_path)
        assert status == 1 and message in err


def test_a_closed_pipe_is_silent(minilm):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with started("sts", minilm, stdout=write_end) as process:
        os.close(write_end)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert all(line.startswith("sentpool: warning: ") for line in err.splitlines())


def test_interrupt_is_one_line(minilm, tmp_path):
    deadline = time.monotonic() + 60
    with started("encode", minilm, "-", "--output", tmp_path / "out.npy") as process:
        while not os.listdir(tmp_path):  # the temporary file: the model is loaded, and lines are waited for
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if "warning" not in line] == ["sentpool: interrupted"]
    assert os.listdir(tmp_path) == []


def shell(command, folder=None, **environment):
    """Run a shell line in which `sentpool` is our program: exit status, stdout and stderr."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(sentpool.__file__)))
    path = os.pathsep.join([*environment.pop("first", []), package, *sys.path])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "PYTHON": sys.executable, **environment}
    line = f'sentpool() {{ "$PYTHON" -m sentpool "$@"; }}; {command}'
    done = subprocess.run(["sh", "-c", line], env=variables, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_wrong_variable_is_one_line(minilm):
    for variable in ("SENTPOOL_ISA", "SENTPOOL_GEMM"):
        status, out, err = shell(f"sentpool info '{minilm}'", **{variable: "foo"})
        assert (status, out) == (1, "")
        assert_one_line(err, f"{variable} is 'foo'; on this CPU it may be")
        assert shell("sentpool --version", **{variable: "foo"}) == (0, f"sentpool {__version__}\n", "")


def test_an_interrupt_while_modules_are_loaded(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")
    assert shell("sentpool info somewhere", first=[str(tmp_path)]) == (130, "", "sentpool: interrupted\n")


@pytest.mark.parametrize(
    "command, message",
    [
        ("sentpool info MODEL >&-", "standard output is closed"),
        ("sentpool --version >&-", "standard output is closed"),
        ("sentpool encode MODEL - --output x.npy <&-", "standard input is closed"),
        ("sentpool --version >/dev/full", "No space left on device"),
        ("sentpool --help >/dev/full", "No space left on device"),
        ("sentpool info MODEL >/dev/full", "No space left on device"),
        ("sentpool encode MODEL - --output /dev/stdout </dev/null", "'/dev/stdout': it exists and is not a regular"),
        ("sentpool encode MODEL - --output /dev/stdout </dev/null >kept", "'/dev/stdout': it is the standard output"),
        ("sentpool sts MODEL --output kept >>kept", "'kept': it is the standard output"),
    ],
)
def test_streams_that_cannot_be_used_are_one_line(minilm, tmp_path, command, message):
    status, out, err = shell(command.replace("MODEL", f"'{minilm}'"), tmp_path)
    assert (status, out) == (1, "")
    assert_one_line(err, message)
    assert not (tmp_path / "x.npy").exists()


def test_without_a_stream_for_errors(tmp_path, minilm):
    status, out, err = shell(f"echo a | sentpool encode '{minilm}' - --output x.npy 2>&-", tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("x.npy: 1 × 384 float32")
    assert shell("sentpool info nowhere 2>&-", tmp_path) == (1, "", "")


def test_public_names_are_loaded_at_first_use():
    code = (
        "import sys, sentpool; assert not {'numpy', 'sentpool._core'} & set(sys.modules); "
        "assert set(sentpool.__all__) <= set(dir(sentpool)); sentpool.evaluation.sts; "
        "from sentpool import *; assert SentenceEncoder is sentpool.SentenceEncoder; "
        "print(all(getattr(sentpool, name) for name in sentpool.__all__), hasattr(sentpool, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
