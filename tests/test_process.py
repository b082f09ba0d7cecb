"""What concerns the whole process: signals, forks, threads, memory, the environment. Each in a subprocess."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest
from fabricate import bert_folder, sentence_transformers_folder

from sentpool import _core

PREAMBLE = """
import os, resource, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import sentpool
folder = sys.argv[1]
"""


def run(code: str, *arguments, check=True, **environment):
    """Run Python code in a process of its own; a crash by signal is always a failure."""
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert result.returncode >= 0, f"ended by signal {-result.returncode}\n{result.stderr}"
    if check:
        assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("tiny"))


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("texts", ["short", "long"])
def test_ctrl_c_returns_within_200_ms(minilm, texts):
    """Interrupted while the core runs or while texts are tokenised; then the next call gives the usual bits."""
    out = run(
        """
        model = sentpool.SentenceEncoder(folder)
        short = [f"sentence number {i} about this and that" for i in range(20000)]
        long = ["a long text of many different words " * 60 + str(i) for i in range(2000)]
        texts = {"short": short, "long": long}[sys.argv[2]]
        expected = model.encode(texts[:3])
        delays = []
        for attempt in range(6):
            sent = []
            def interrupt():
                time.sleep(0.05 + 0.13 * attempt)
                sent.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            try:
                model.encode(texts)
                sys.exit("finished before it was interrupted")
            except KeyboardInterrupt:
                delays.append(time.perf_counter() - sent[0])
            assert (model.encode(texts[:3]) == expected).all()
        print(max(delays))
        """,
        minilm,
        texts,
    )
    assert float(out.stdout) <= 0.2


@pytest.mark.alone
def test_ctrl_c_ends_a_comparison_of_many_vectors():
    out = run(
        """
        vectors = np.random.default_rng(0).standard_normal((20000, 384), dtype=np.float32)
        sent = []
        def interrupt():
            time.sleep(0.5)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            sentpool._core.similarity(vectors, vectors, "cosine", 2)
            sys.exit("finished before it was interrupted")
        except KeyboardInterrupt:
            print(time.perf_counter() - sent[0])
        """,
        "",
    )
    assert float(out.stdout) <= 0.2


# ---- forks and threads ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gemm", ["panel", "blis"])
def test_fork_after_use(tiny, gemm):
    run(
        """
        model = sentpool.SentenceEncoder(folder)
        texts = ["the cat sat", "a dog"] * 50
        expected = model.encode(texts, threads=2)
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if (model.encode(texts, threads=2) == expected).all() else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        tiny,
        SENTPOOL_GEMM=gemm,
        TOKENIZERS_PARALLELISM="false",
    )


@pytest.mark.filterwarnings("ignore")
def test_fork_while_other_threads_multiply():
    """Whatever locks BLIS holds at that moment, the child can multiply."""
    run(
        """
        core = sentpool._core
        x = np.ones((64, 64), np.float32)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                core.dense(x, x, None, "identity")
        threads = [threading.Thread(target=work) for _ in range(3)]
        [thread.start() for thread in threads]
        for _ in range(300):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                core.dense(x, x, None, "identity")
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        [thread.join() for thread in threads]
        """,
        "",
    )


def test_workers_never_exceed_twice_the_cpus(tiny):
    run(
        """
        model = sentpool.SentenceEncoder(folder)
        texts = [f"the cat sat on {i} mats" for i in range(3000)]
        model.encode(texts[:10])
        before = len(os.listdir("/proc/self/task"))
        stop, most = threading.Event(), [0]
        def watch():
            while not stop.is_set():
                most[0] = max(most[0], len(os.listdir("/proc/self/task")))
        watcher = threading.Thread(target=watch)
        callers = [threading.Thread(target=model.encode, args=(texts,), kwargs={"threads": 8}) for _ in range(8)]
        watcher.start()
        [thread.start() for thread in callers]
        [thread.join() for thread in callers]
        stop.set()
        watcher.join()
        assert most[0] - before - len(callers) - 1 <= 2 * len(os.sched_getaffinity(0)), (most, before)
        """,
        tiny,
        TOKENIZERS_PARALLELISM="false",
    )


def test_fewer_threads_where_no_more_can_be_had(tiny):
    """With no room for another thread's stack, the calling thread does the work alone."""
    run(
        """
        model = sentpool.SentenceEncoder(folder)
        texts = ["the cat sat", "a dog"] * 50
        expected = model.encode(texts, threads=1)
        threading.stack_size(0)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setuid(65534)
        assert (model.encode(texts, threads=2) == expected).all()
        """,
        tiny,
        TOKENIZERS_PARALLELISM="false",
    ) if os.geteuid() == 0 else pytest.skip("only root may become a user with no processes left")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets a register of x86-64")
@pytest.mark.parametrize("mode", [0x8040, 0x4000], ids=["flush to zero", "round upward"])
def test_arithmetic_left_in_another_mode_by_others_changes_nothing(tmp_path, mode):
    """Encoder, dense layer, normalisation and similarity; with numbers whose products are subnormal."""
    run(
        """
        import ctypes
        model = sentpool.SentenceEncoder(folder)
        core = sentpool._core
        texts = ["the cat sat", "a dog"] * 5
        small = np.full((2, 24), 1e-21, np.float32)
        tiny = small * np.float32(1e-18)
        def results():
            vectors = model.encode(texts, threads=2)
            dense = core.dense(small, small, None, "identity")
            numbers = [vectors, dense, core.normalize(tiny), core.normalize(vectors)]
            numbers += [core.similarity(vectors, vectors), core.similarity_pairwise(vectors, vectors[::-1])]
            return b"".join(x.tobytes() for x in numbers), dense
        expected, dense = results()
        assert (dense > 0).all()
        libm = ctypes.CDLL("libm.so.6")
        environment = (ctypes.c_uint32 * 8)()
        libm.fegetenv(environment)
        environment[7] |= int(sys.argv[2])  # MXCSR
        libm.fesetenv(environment)
        changed = results()[0]
        environment[7] &= ~int(sys.argv[2])
        libm.fesetenv(environment)
        assert changed == expected
        """,
        sentence_transformers_folder(tmp_path, head=(7, "Normalize")),
        mode,
    )


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gemm", ["panel", "blis"])
@pytest.mark.parametrize("isa", [isa for isa in _core.isas() if isa != "scalar"])
def test_out_of_address_space_is_a_memory_error(tiny, isa, gemm):
    """At every limit from hardly anything on: MemoryError or success, never a signal, and the process goes on."""
    out = run(
        """
        model = sentpool.SentenceEncoder(folder)
        expected = model.encode(["the cat"])
        texts = [f"the cat sat on {i} mats" for i in range(400)]
        whole = model.encode(texts, threads=1)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        outcomes = set()
        for megabytes in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256):
            resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))
            try:
                ballast = []
                try:
                    while megabytes == 0:
                        ballast.append(bytearray(1 << 16))
                except MemoryError:
                    pass
                assert (model._core.layer_states(np.arange(30), [0, 30], [2], ["mean"], threads=2) == 0).size == 24
                outcomes.add("done")
            except MemoryError:
                outcomes.add("MemoryError")
            del ballast
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        assert (model.encode(["the cat"]) == expected).all()
        assert (model.encode(texts) == whole).all()
        print(sorted(outcomes))
        """,
        tiny,
        SENTPOOL_ISA=isa,
        SENTPOOL_GEMM=gemm,
        TOKENIZERS_PARALLELISM="false",
    )
    assert "done" in out.stdout


def test_an_absurd_size_is_a_memory_error():
    out = run(
        """
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
        try:
            sentpool._core.Model(vocab_size=1 << 20, max_positions=512, type_vocab_size=2, hidden=1 << 14, layers=900,
                                 heads=16, intermediate=1 << 16)
        except MemoryError as error:
            print("MemoryError")
        """,
        "",
    )
    assert out.stdout == "MemoryError\n"


def test_memory_does_not_grow_with_sentences_or_calls(minilm):
    """Peak resident memory above the model is bounded, the result aside; and repeated calls leave nothing behind."""
    out = run(
        """
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        model = sentpool.SentenceEncoder(folder)
        model.encode(["warm up"] * 3)
        texts = [f"{i} is a number in a sentence" for i in range(3000)]
        start = resident()
        peak0 = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model.encode(texts)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak0) / 1024
        for _ in range(300):
            model.encode(texts[:2])
            model.similarity(np.ones((3, 5)), np.ones((2, 5)))
        before = resident()
        for _ in range(1000):
            model.encode(texts[:2])
            model.similarity(np.ones((3, 5)), np.ones((2, 5)))
            try:
                model.encode([1])
            except TypeError:
                pass
        print(peak, (resident() - before) / 1000)
        """,
        minilm,
    )
    peak_megabytes, bytes_per_call = map(float, out.stdout.split())
    assert peak_megabytes < 80
    assert bytes_per_call < 1000


# ---- the environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SENTPOOL_ISA", "sse9", "SENTPOOL_ISA is 'sse9'; on this CPU it may be .*generic"),
        ("SENTPOOL_GEMM", "mkl", "SENTPOOL_GEMM is 'mkl'; on this CPU it may be panel"),
        ("SENTPOOL_BLIS_ARCH", "zen3", "SENTPOOL_BLIS_ARCH is 'zen3'; on this CPU it may be"),
        ("SENTPOOL_NUM_THREADS", "many", "SENTPOOL_NUM_THREADS is 'many'; it must be a positive integer"),
        ("SENTPOOL_NUM_THREADS", "0", "SENTPOOL_NUM_THREADS is '0'"),
        ("SENTPOOL_NUM_THREADS", "-2", "SENTPOOL_NUM_THREADS is '-2'"),
    ],
)
def test_variables_are_checked(tiny, variable, value, message):
    import re

    result = run("sentpool.SentenceEncoder(folder).encode('a')", tiny, check=False, **{variable: value})
    assert result.returncode == 1
    assert re.search(f"ValueError: {message}", result.stderr)


def test_number_of_threads(tiny):
    out = run(
        """
        print(sentpool.get_num_threads())
        sentpool.set_num_threads(5)
        print(sentpool.get_num_threads())
        sentpool.set_num_threads(None)
        print(sentpool.get_num_threads())
        for bad in (0, -1, 1.5, True, "2"):
            try:
                sentpool.set_num_threads(bad)
            except (TypeError, ValueError) as error:
                assert "threads" in str(error)
        """,
        tiny,
        SENTPOOL_NUM_THREADS="3",
    )
    assert out.stdout.split() == ["3", "5", "3"]


def test_variables_of_blis_are_not_looked_at(tiny):
    """BLIS itself would abort on this one."""
    run("sentpool.SentenceEncoder(folder).encode('a')", tiny, BLIS_ARCH_TYPE="9999", BLIS_NUM_THREADS="x")


def test_a_default_that_affinity_limits(tiny):
    out = run("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(sentpool.get_num_threads())", tiny)
    assert out.stdout.strip() == "1"
