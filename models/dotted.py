"""Names of the form package.module:attribute, by which a user plugs in his own code.

Owns how such a name, or one from a fixed list, is resolved and what is said when it is not.
Leaves sys.path to the launcher.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable


def is_dotted(name: str) -> bool:
    """Tell whether a name points into a user's module rather than into a list of ours."""
    return ":" in name


def load_dotted(name: str, what: str) -> object:
    """Import `package.module:attribute`; `what` ("model") names it in errors.

    Raises ValueError where there is no such module or attribute. An error inside the module is
    the user's bug and propagates.
    """
    module_name, _, attribute = name.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{what} {name!r} is not understood; write it as package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # found, but something that it imports was not
        raise ValueError(
            f"{what} {name!r}: no module {error.name!r}; start from the directory that holds it, "
            "or install it"
        ) from error

    target: object = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            hint = _suggestion(part, dir(target))
            raise ValueError(f"{what} {name!r}: {module_name} has no attribute {part!r}{hint}")
        target = getattr(target, part)
    return target


def load_function(name: str, what: str) -> Callable[..., object]:
    """Import `package.module:function`, or raise ValueError where it cannot be called."""
    function = load_dotted(name, what)
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"{what} {name!r} is a {kind}; name a function that makes the {what}")
    return function


def check_call(function: Callable[..., object], name: str, what: str, *given: str) -> None:
    """Raise ValueError where the function can't be called with just these keywords."""
    try:
        inspect.signature(function).bind(**dict.fromkeys(given))
    except TypeError as error:
        called = ", ".join(given) or "no argument"
        raise ValueError(f"{what} {name!r} is called with {called}: {error}") from error


def unknown_name(name: str, what: str, known: Iterable[str]) -> ValueError:
    """Make the error for a name that is in no list: it lists the names and the nearest one."""
    names = list(known)
    return ValueError(
        f"no {what} named {name!r}{_suggestion(name, names)}; choose one of {', '.join(names)}, "
        "or write package.module:attribute for your own"
    )


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
