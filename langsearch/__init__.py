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
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langsearch.api.calls import check, evaluate, export, load_space, open_experiment, search, train, translate
    from langsearch.api.experiment import Experiment
    from langsearch.space.problems import InputError, SearchStoppedError

__version__ = "0.1.0"

__all__ = [
    "Experiment",
    "InputError",
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
    "SearchStoppedError": "langsearch.space.problems",
}
"""Where a public name is defined, if not in `_CALLS`."""

_CALLS = "langsearch.api.calls"


class _CallableStation(ModuleType):
    """A station that has its name in common with a function: `langsearch.train` holds modules, and can be called.

    Python sets a package's attribute to the station whenever a module of it is imported, so the function cannot take
    its place.
    """

    @property
    def __wrapped__(self) -> Any:
        """The function, for `inspect.signature`."""
        return getattr(import_module(_CALLS), self.__name__.rpartition(".")[2])

    def __getattribute__(self, name: str) -> Any:
        """Returns an attribute; as its docstring the function's, for `help`."""
        return self.__wrapped__.__doc__ if name == "__doc__" else super().__getattribute__(name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


for _name in ("search", "train", "evaluate"):  # each of these is an `__init__` that holds nothing
    import_module(f"langsearch.{_name}").__class__ = _CallableStation


def __getattr__(name: str) -> Any:
    """Returns a public name, whose module is loaded at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'langsearch' has no attribute {name!r}")
    value = getattr(import_module(_OWNERS.get(name, _CALLS)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
