"""The verbs of the command line, one a module.

A module holds PURPOSE, a line for --help; EXAMPLE, a command line that works; `arguments(verb)`, which adds what the
verb takes to its argparse parser; and `run(options)`. What is heavy is imported inside `run`: --help needs none of it.
"""

from types import ModuleType

from sentpool.commands import compare, encode, geometry, info, probe, quantize, retrieval, search, sts, train, transfer

VERBS: dict[str, ModuleType] = {
    "sts": sts,
    "probe": probe,
    "geometry": geometry,
    "transfer": transfer,
    "retrieval": retrieval,
    "search": search,
    "compare": compare,
    "train": train,
    "encode": encode,
    "quantize": quantize,
    "info": info,
}
