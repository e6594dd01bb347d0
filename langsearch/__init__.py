"""langsearch finds, for each language of a translation model, the smallest adapters that translate best.

>>> import langsearch as ls
>>> space = ls.load_space("search_spaces/quickstart.yaml")   # or a dictionary
>>> experiment = ls.search(space)                            # Ctrl+C stops it; resume=True goes on
>>> experiment.front()                                       # a pandas.DataFrame; experiment.results() has every trial
>>> experiment.report()                                      # the page's path; a notebook shows the page
>>> ls.translate(experiment, ["Good morning."], "en", "sw")

The functions do what the commands of their names do: check, search (`langsearch run`), train, translate, evaluate,
export; and open_experiment, for what is there already. Importing the package loads none of what they need.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langsearch.api.calls import check, evaluate, export, load_space, open_experiment, search, train, translate
    from langsearch.api.experiment import Experiment
    from langsearch.space.problems import InputError, LeaseLostError, SearchStoppedError

__version__ = "0.1.0"

__all__ = [
    "Experiment",
    "InputError",
    "LeaseLostError",
    "SearchStoppedError",
    "check",
    "evaluate",
    "export",
    "load_space",
    "open_experiment",
    "search",
    "train",
    "translate",
]

if sys.platform == "win32":
    _PROBLEM = (
        "langsearch must run on Linux or macOS, but this is Windows: use the Windows Subsystem for Linux "
        "(wsl --install), and install langsearch there."
    )
    if sys.argv and sys.argv[0].replace("\\", "/").rpartition("/")[2] in ("-m", "langsearch", "langsearch.exe"):
        sys.exit(f"error: {_PROBLEM}")  # the command; the sentence alone
    raise ImportError(_PROBLEM)

_OWNERS = {
    "Experiment": "langsearch.api.experiment",
    "InputError": "langsearch.space.problems",
    "LeaseLostError": "langsearch.space.problems",
    "SearchStoppedError": "langsearch.space.problems",
}
"""Where a public name is defined, if not in `_CALLS`."""

_CALLS = "langsearch.api.calls"


class Command:
    """A function that has its name in common with a station: `ls.train` trains, and `langsearch.train` holds modules.

    To `help` and `inspect` it is the function, which is loaded at its first use; the station's modules are its
    attributes, as for every package.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self._station = import_module(f"{__name__}.{name}")  # an `__init__` that holds nothing

    @property
    def __wrapped__(self) -> Any:
        """The function."""
        return getattr(import_module(_CALLS), self.__name__)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)

    def __get__(self, instance: object, owner: type | None = None) -> "Command":
        """Returns itself: what has this method is a function to `inspect.isroutine`, and so to `help`."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Returns a module of the station: Python finds `import langsearch.train.loop as loop` so."""
        return getattr(self._station, name)

    def __repr__(self) -> str:
        return f"<function {__name__}.{self.__name__}>"

    def __reduce__(self) -> str:
        return self.__name__


Command.__doc__ = property(lambda command: command.__wrapped__.__doc__)  # type: ignore[assignment]  # of its instances

for _name in ("search", "train", "evaluate"):
    # Python sets a package's attribute to a station when that is imported first, which has happened then.
    globals()[_name] = Command(_name)


def __getattr__(name: str) -> Any:
    """Returns a public name, whose module is loaded at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'langsearch' has no attribute {name!r}")
    value = getattr(import_module(_OWNERS.get(name, _CALLS)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
