"""What a user installs and imports: the wheel's contents, the cost of the import, the version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import sentpool

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "pandas", "huggingface_hub", "tqdm")
CORE = "sentpool/_core" + sysconfig.get_config_var("EXT_SUFFIX")

needs_source = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not a source tree")


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the tree, in a folder with a space in its name, with the tests' switch on."""
    folder = tmp_path_factory.mktemp("a wheel")
    tree = folder / "source tree"
    # Compiled objects come along: their names and times are kept, so nothing is compiled twice.
    for entry in ("csrc", "sentpool", "tools", "build/objects", ".blis"):
        if (ROOT / entry).exists():
            unwanted = shutil.ignore_patterns("__pycache__", "_*.so")
            shutil.copytree(ROOT / entry, tree / entry, symlinks=True, ignore=unwanted)
    for entry in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy2(ROOT / entry, tree)
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    built = run_python(*command, str(tree), SENTPOOL_KERNELS="1", SENTPOOL_SANITIZE="0", SENTPOOL_DEBUG="0")
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def texts_of(wheel: zipfile.ZipFile, folder: str) -> dict[str, str]:
    """The files of one folder of the wheel's metadata, by their names without it."""
    names = [name for name in wheel.namelist() if re.search(rf"\.dist-info/{folder}[^/]+$", name)]
    return {Path(name).name: wheel.read(name).decode() for name in names}


@needs_source
def test_wheel_holds_what_is_needed_and_nothing_else(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sentpool").rglob("*.py")}
    data = {f"sentpool/sample/{path.name}" for path in (ROOT / "sentpool" / "sample").glob("*.*")}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == modules | data | {CORE, "sentpool/_core.pyi", "sentpool/py.typed"}


@needs_source
def test_wheel_carries_the_licences(wheel):
    licences = texts_of(wheel, "licenses/")
    assert licences.keys() == {"LICENSE", "NOTICE"}
    assert "University of Texas" in licences["NOTICE"]


@needs_source
def test_wheel_is_of_this_platform_and_asks_for_what_it_needs(wheel):
    metadata = texts_of(wheel, "")
    assert "Root-Is-Purelib: false" in metadata["WHEEL"]
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata["METADATA"], re.MULTILINE)
    assert sorted(needed) == ["numpy", "safetensors", "tokenizers", "tqdm"]


@needs_source
def test_extension_in_the_wheel_names_no_blas_library(wheel, tmp_path):
    """BLIS is inside; a second library to find at run time would be another BLIS than the tested one."""
    objdump = shutil.which("objdump") or pytest.skip("no objdump (binutils)")
    listing = subprocess.check_output([objdump, "-p", wheel.extract(CORE, tmp_path)], text=True)
    needed = re.findall(r"NEEDED\s+(\S+)", listing)
    assert needed
    assert not [library for library in needed if re.search("blis|blas|gomp|openmp", library)]
    assert "RPATH" not in listing
    assert "RUNPATH" not in listing


def test_import_is_light():
    use = (
        "sentpool.SentenceEncoder, sentpool.evaluation.probe, sentpool.plotting"  # public names load at their first use
    )
    code = f"import json, sys, sentpool; {use}; print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_opening_a_model_loads_no_openssl(minilm):
    """It would be megabytes for the sake of a provenance, which may never be asked for."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); import numpy, tokenizers, sentpool\n"
        "print('_hashlib' in sys.modules); sentpool.SentenceEncoder(sys.argv[1]).encode(['a'])\n"
        "print('_hashlib' in sys.modules)"
    )
    result = run_python("-c", code, str(minilm))
    assert result.returncode == 0, result.stderr
    before, after = result.stdout.split()
    if before == "True":
        pytest.skip("this NumPy or tokenizers loads it by itself")
    assert after == "False"


def test_import_and_load_are_quick(minilm):
    """CPU time, the least of five processes; bounds leave room, for others may compute."""
    steps = (
        "import sentpool",
        "sentpool.SentenceEncoder, sentpool.evaluation.sts",
        "sentpool.SentenceEncoder(sys.argv[1])",
    )
    code = "import sys, time, warnings; warnings.simplefilter('ignore'); clock = time.process_time\n"
    code += "".join(f"start = clock(); {step}; print(clock() - start)\n" for step in steps)
    seconds = [[float(line) for line in run_python("-c", code, minilm).stdout.split()] for _ in range(5)]
    bare, everything, load = map(min, zip(*seconds, strict=True))
    assert bare < 0.1
    assert everything < 0.6
    assert load < 0.4


@needs_source
def test_version_is_the_newest_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert releases[0] == sentpool.__version__


def test_command_line_prints_the_version():
    result = run_python("-m", "sentpool", "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["sentpool", sentpool.__version__]


@needs_source
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BLIS_DIR": "nowhere"}, r"BLIS_DIR=nowhere does not hold include/blis\.h"),
        ({"CC": "no-such-compiler"}, r"no C compiler \(no-such-compiler\); run: sudo apt-get install"),
    ],
)
def test_build_says_in_one_line_what_is_missing(environment, said, tmp_path):
    result = run_python("setup.py", "--quiet", "build_ext", "--build-lib", str(tmp_path), **environment)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(f"sentpool: {said}", line)
