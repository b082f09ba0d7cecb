"""The house rules of the C core, read off its source and off the symbols of the built extension."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc"
SOURCES = sorted(CORE.rglob("*.[ch]"))
WITHOUT_PYTHON = [path for path in SOURCES if CORE / "python" not in path.parents]
LONGEST_FILE = 600
LONGEST_FUNCTION = 80

pytestmark = pytest.mark.skipif(not SOURCES, reason="csrc/ is not here: installed without its source")

COMMENT_OR_LITERAL = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+'""", re.DOTALL | re.VERBOSE
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_of(path: Path) -> str:
    """The text of a C file with comments and literals blanked, line by line in its old place."""
    return COMMENT_OR_LITERAL.sub(lambda match: "\n" * match.group().count("\n"), path.read_text())


def find(pattern: str, paths: list[Path]) -> list[str]:
    """Every line of code that matches, as ``file:line: text``."""
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(code_of(path).splitlines(), 1)
        if re.search(pattern, line)
    ]


def functions_of(path: Path) -> list[tuple[int, list[str]]]:
    """Every function as (line of its brace, lines between its braces): both braces stand in column 0."""
    found, start = [], None
    lines = code_of(path).splitlines()
    for number, line in enumerate(lines):
        if line.rstrip() == "{":
            start = number
        elif line.startswith("}") and start is not None:
            found.append((start + 1, lines[start + 1 : number]))
            start = None
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_file_is_short_and_says_why_it_exists(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    assert text.startswith("/* "), "a C file opens with a comment: what it is for and what it promises"
    assert path.name in text.partition("\n")[0], "the first line names the file"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_functions_are_short(path):
    long = [f"{name(path)}:{line}" for line, body in functions_of(path) if len(body) > LONGEST_FUNCTION]
    assert not long


def test_function_finder_sees_functions():
    """The rule above must not pass because the finder finds nothing."""
    assert sum(len(functions_of(path)) for path in SOURCES) > 2 * len(SOURCES)


def test_only_gemm_sees_blis():
    """``bli_`` in another file, or a second inclusion, would be a second seam."""
    others = [path for path in SOURCES if name(path) != "csrc/gemm.c"]
    include = re.compile(r"#\s*include\s*[<\"](blis/)?blis\.h")
    assert [name(path) for path in SOURCES if include.search(path.read_text())] == ["csrc/gemm.c"]
    assert not find(r"\bbli_\w+\s*\(", others)


def test_only_the_binding_sees_python():
    including = re.compile(r"#\s*include\s*[<\"](Python|structmember|numpy/)")
    assert not [name(path) for path in WITHOUT_PYTHON if including.search(path.read_text())]
    assert not find(r"\bPy[A-Z_]\w+", WITHOUT_PYTHON)


def test_core_neither_prints_nor_ends_the_process():
    prints = r"printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|perror"
    ends = r"exit|_exit|_Exit|abort|assert|raise|kill|longjmp"
    assert not find(rf"\b({prints}|{ends})\s*\(", WITHOUT_PYTHON)


def test_only_the_arena_allocates():
    """One allocator: every failure is a NULL that a test can provoke."""
    others = [path for path in SOURCES if name(path) != "csrc/base/arena.c"]
    allocators = r"malloc|calloc|realloc|aligned_alloc|posix_memalign|memalign|strdup|free"
    assert not find(rf"\b({allocators})\s*\(", others)


RELEASE = re.compile(r"\b(Py_BEGIN_ALLOW_THREADS|PyEval_SaveThread|sp_poll_start)\b")
RETAKE = re.compile(r"\b(Py_END_ALLOW_THREADS|PyEval_RestoreThread|sp_poll_end)\b")
LEAVES = re.compile(r"\b(return|goto|break|continue)\b")
# Reading an array's size or pointer touches no reference count.
CALLS_PYTHON = re.compile(r"\b(?!PyArray_(DIMS?|DATA|STRIDES?|NDIM|SIZE)\b)Py[A-Z_]\w*\s*\(")


def gil_faults(body: list[str]) -> list[str]:
    """Lines that break the pairing of release and retake.

    A function that opens with a retake runs without the GIL (a callback of the core) and must end so.
    """
    events = [line for line in body if RELEASE.search(line) or RETAKE.search(line)]
    if not events:
        return []
    released = released_at_first = bool(RETAKE.search(events[0]))
    faults = []
    for line in body:
        if RELEASE.search(line) or RETAKE.search(line):
            if released == bool(RELEASE.search(line)):
                faults.append(line)
            released = not released
            continue
        leaves_between = released != released_at_first and LEAVES.search(line)
        if leaves_between or (released and CALLS_PYTHON.search(line)):
            faults.append(line)
    return faults if released == released_at_first else [*faults, "the function ends in the other state"]


def test_every_release_of_the_gil_ends_in_a_retake():
    bodies = [(name(path), body) for path in (CORE / "python").rglob("*.c") for _, body in functions_of(path)]
    # poll.c holds the two halves of one pair, whose users are read like those of PyEval_SaveThread
    pair = [body for file, body in bodies if file == "csrc/python/poll.c" and len(body) <= 2]
    assert len(pair) == 2
    assert not [(file, fault.strip()) for file, body in bodies if body not in pair for fault in gil_faults(body)]
    assert any(RELEASE.search(line) for _, body in bodies for line in body)


@pytest.mark.parametrize(
    "body",
    [
        ["Py_BEGIN_ALLOW_THREADS", "return NULL;", "Py_END_ALLOW_THREADS"],
        ["Py_BEGIN_ALLOW_THREADS", "run();"],
        ["state = PyEval_SaveThread();", "Py_DECREF(x);", "PyEval_RestoreThread(state);"],
        ["PyEval_RestoreThread(state);", "if (failed)", "return -1;", "state = PyEval_SaveThread();"],
    ],
)
def test_gil_rule_sees_faults(body):
    assert gil_faults(body)


def test_the_extension_exports_its_init_function_alone():
    """A BLAS symbol of ours that another library could bind to, or the other way round, would be a trap."""
    core = pytest.importorskip("sentpool._core")
    nm = shutil.which("nm") or pytest.skip("no nm (binutils)")
    listing = subprocess.check_output([nm, "-D", "--defined-only", core.__file__], text=True)
    exported = {line.split()[-1] for line in listing.splitlines()}
    assert exported - {"_init", "_fini", "__bss_start", "_edata", "_end"} == {"PyInit__core"}


def test_no_fused_or_fast_arithmetic_by_pragma_or_attribute():
    """Flags are set in one place (setup.py); a pragma in a file would undo them unseen."""
    assert not find(r"fast-math|FP_CONTRACT|\boptimize\s*\(", SOURCES)


def test_contributing_names_every_source_file():
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1]
    named = set(re.findall(r"[\w.]+", tree))
    sources = [*SOURCES, *CORE.rglob("*.def"), *(ROOT / "sentpool").rglob("*.py")]
    assert not [name(path) for path in sources if path.name not in named]


def tracked_files() -> list[Path]:
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / entry for entry in git.stdout.split("\0") if entry]


def test_no_path_of_a_machine_in_any_file():
    """A path that exists on one machine only makes a test pass there and nowhere else."""
    if shutil.which("git") is None or not tracked_files():
        pytest.skip("not a git work tree")
    path_of_a_machine = re.compile(rb"(?<![\w.$}\"'-])/(root|home|work|tmp|Users|mnt|opt)/\w")
    present = [path for path in tracked_files() if path.is_file()]
    assert not [name(path) for path in present if path_of_a_machine.search(path.read_bytes())]
