"""langsearch finds, for each language of a translation model, the smallest adapters that translate best."""

import sys

__version__ = "0.1.0"

if sys.platform == "win32":
    _PROBLEM = (
        "langsearch must run on Linux or macOS, but this is Windows: use the Windows Subsystem for Linux "
        "(wsl --install), and install langsearch there."
    )
    if sys.argv and sys.argv[0].replace("\\", "/").rpartition("/")[2] in ("-m", "langsearch", "langsearch.exe"):
        sys.exit(f"error: {_PROBLEM}")  # the command; the sentence alone
    raise ImportError(_PROBLEM)
