"""What the C core is built of: sources, flags, instruction sets. How it is built: tools/build_core.py.

Switches in the environment: SENTPOOL_DEBUG=1 (-O1 -g), SENTPOOL_SANITIZE=1 (AddressSanitizer and UBSan),
SENTPOOL_WERROR=1 (-Wconversion, and warnings are errors), SENTPOOL_KERNELS=1 (also sentpool._kernels, which
the tests use and no wheel holds); CC, CFLAGS and BLIS_DIR as usual. Metadata: pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "tools"))
from build_core import Recipe, build_command  # noqa: E402


def is_on(switch: str) -> bool:
    return os.environ.get(switch, "0") not in ("", "0")


# No flag may change a bit of a result: multiply and add are fused only where the source says so.
compile_flags = ["-fno-fast-math", "-std=c11", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
compile_flags += ["-ffp-contract=off", "-fno-lto", "-fPIC", "-fvisibility=hidden", "-pthread"]
compile_flags += ["-Wall", "-Wextra", "-DNDEBUG", "-D_GNU_SOURCE", "-Icsrc"]
# NumPy 1.23 and newer at run time, as pyproject.toml says.
compile_flags += [f"-DNPY_{name}=NPY_1_23_API_VERSION" for name in ("NO_DEPRECATED_API", "TARGET_VERSION")]
# BLIS asks the wrapped functions for the CPU, for BLIS_* variables and whether to check operands; csrc/gemm.c answers
# in their place.
link_flags = ["-shared", "-pthread", "-fno-lto", "-Wl,--exclude-libs,ALL"]
wrapped = ("cpuid_query_id", "env_get_var", "env_get_str", "error_checking_is_enabled")
link_flags += [f"-Wl,--wrap=bli_{name}" for name in wrapped]

if is_on("SENTPOOL_DEBUG"):
    compile_flags += ["-O1", "-g", "-UNDEBUG"]
if is_on("SENTPOOL_SANITIZE"):
    # Optimised all the same: without, the suite under the sanitizers takes several times as long.
    compile_flags += ["-g", "-UNDEBUG", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    compile_flags += ["-fsanitize=address,undefined"]
    link_flags += ["-fsanitize=address,undefined"]
if is_on("SENTPOOL_WERROR"):
    compile_flags += ["-Wconversion", "-Werror"]

instruction_sets = {"generic": ["-DSP_ISA_GENERIC"]}
if platform.machine() == "x86_64":
    avx2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c"]
    avx512 = [*avx2, *(f"-mavx512{part}" for part in ("f", "cd", "bw", "dq", "vl"))]
    instruction_sets["avx2"] = [*avx2, "-DSP_ISA_AVX2"]
    instruction_sets["avx512"] = [*avx512, "-mprefer-vector-width=512", "-DSP_ISA_AVX512"]

core = set(glob("csrc/**/*.c", recursive=True)) - {"csrc/python/kernels_ext.c"}
once = ("dispatch", "dispatch_low", "scalar", "scalar_low")
per_set = set(glob("csrc/kernels/*.c")) - {f"csrc/kernels/{name}.c" for name in once}
extensions = [Extension("sentpool._core", sorted(core))]
if is_on("SENTPOOL_KERNELS"):
    shared = {f"csrc/python/{name}.c" for name in ("arrays", "errors", "poll")}
    of_core_alone = set(glob("csrc/python/*.c")) - shared
    of_kernels = core - of_core_alone | {"csrc/python/kernels_ext.c"}
    extensions.append(Extension("sentpool._kernels", sorted(of_kernels)))

recipe = Recipe(compile_flags, link_flags, instruction_sets, per_set, never_installed={"sentpool._kernels"})
setup(ext_modules=extensions, cmdclass={"build_ext": build_command(recipe)})
