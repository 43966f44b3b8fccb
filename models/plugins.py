"""A user's own code: found by name, called, and blamed by name when it raises.

Owns names of the form package.module:attribute and path/to/file.py:attribute, what is said of one
that leads nowhere, and UsersError. Leaves sys.path to the launcher, but for the folder of a file.

Two kinds of errors leave this file. A ValueError says in one line what is wrong with a name, or
with what the user's code handed to ours. A UsersError says that the user's code raised: its cause
is what was raised, with the traceback that he needs.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch

from models.paths import absolute, is_file, is_folder

OURS = ("models", "runtime", "launch", "benchmarks")  # a user's folders may have these names too
FORMS = "package.module:attribute or path/to/file.py:attribute"


class UsersError(Exception):
    """The user's own code raised; `__cause__` is what it raised."""


@contextmanager
def users_code(who: str, when: str = "") -> Iterator[None]:
    """Run a user's code: whatever it raises becomes a UsersError that names `who`, from it.

    A ValueError of ours, which his code called with what cannot be, stays one, and so does a GPU's
    lack of memory. What it changes of the process is put back: all that follows relies on it.
    """
    directory, dtype = _here(), torch.get_default_dtype()
    takes_gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    try:
        yield
    except (UsersError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if _is_ours(error):
            raise ValueError(f"{who}: {error}") from error
        first_line, *_ = str(error).splitlines() or [""]
        raise UsersError(
            f"{who} raised {type(error).__name__}{when}: {first_line}{_name_is_ours(error)}"
        ) from error
    finally:
        if directory is not None and _here() != directory:
            os.chdir(directory)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(takes_gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _here() -> str | None:
    """The current directory, if it has not been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised in this package, on purpose."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = Path(frames[-1].f_code.co_filename)
    return isinstance(error, ValueError) and Path(__file__).parent in raised_in.parents


def _name_is_ours(error: BaseException) -> str:
    """What to say of an import that found our package in place of the user's."""
    name = error.name if isinstance(error, ImportError) else None
    top = (name or "").partition(".")[0]
    if top not in OURS:
        return ""
    return (
        f" ({top} is this project's own package; to import from your own {top}, write a relative"
        " import, such as from . import net)"
    )


def is_dotted(name: str) -> bool:
    """Tell whether a name points into a user's module rather than into a list of ours."""
    return ":" in name


def load_dotted(name: str, what: str) -> object:
    """Import what a name stands for; `what` ("model") names it in errors.

    Raises ValueError if there is no such module, file or attribute, and UsersError if the module
    raises when it is imported.
    """
    place, _, attribute = name.rpartition(":")
    parts = attribute.split(".")
    if not place.endswith(".py"):
        parts += place.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{what} {name!r} is not understood; write it as {FORMS}")
    is_path = place.endswith(".py")
    module = _load_file(name, what) if is_path else _import_module(name, what)

    target: object = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            hint = _suggestion(part, dir(target)) + ("" if is_path else _whose(place))
            raise ValueError(f"{what} {name!r}: {place} has no attribute {part!r}{hint}")
        target = getattr(target, part)
    return target


def call_function(name: str, what: str, *args: object, **kwargs: object) -> object:
    """Call the function that a name stands for, and return what it returns.

    Raises ValueError if it is no function, or none of these arguments, and UsersError if it
    raises.
    """
    function = load_dotted(name, what)
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"{what} {name!r} is a {kind}; name a function that makes the {what}")
    _check_call(function, name, what, args, kwargs)
    with users_code(f"{what} {name!r}"):
        return function(*args, **kwargs)


def _check_call(
    function: Callable[..., object],
    name: str,
    what: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in ones don't say what they take
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join(["..."] * len(args) + [f"{key}=..." for key in kwargs])
        called = f"as f({given})" if given else "with no argument"
        raise ValueError(f"{what} {name!r} is called {called}: {error}") from error


def unknown_name(name: str, what: str, known: Iterable[str]) -> ValueError:
    """Make the error for a name that is in no list: it lists the names and the nearest one."""
    if name.endswith(".py"):
        return ValueError(f"{what} {name!r} names a file; name the function too: {name}:{what}")
    names = list(known)
    return ValueError(
        f"no {what} named {name!r}{_suggestion(name, names)}; choose one of {', '.join(names)}, "
        f"or write {FORMS} for your own"
    )


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# By module -------------------------------------------------------------------------------------


def _import_module(name: str, what: str) -> ModuleType:
    module_name, _, attribute = name.partition(":")
    hidden = _hidden_file(module_name)
    if hidden is not None and is_file(hidden):
        raise _hides(name, what, hidden)
    try:
        with users_code(f"importing {module_name} for {what} {name!r}"):
            return importlib.import_module(module_name)
    except UsersError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError) or missing.name is None:
            raise
        if not f"{module_name}.".startswith(f"{missing.name}."):
            raise  # found, but something that it imports was not
        if hidden is not None:
            raise _hides(name, what, hidden) from missing
        raise ValueError(
            f"{what} {name!r}: no module {missing.name!r}{_whose(module_name)}; start from the"
            f" directory that holds it, install it, or name the file: path/to/file.py:{attribute}"
        ) from missing


def _hidden_file(module_name: str) -> Path | None:
    """The file that a name would stand for, did another module not hide the current directory's.

    None if none is hidden. The file need not be there.
    """
    here = Path.cwd()
    top, *_ = parts = module_name.split(".")
    if not is_folder(here / top) and not is_file(here / f"{top}.py"):
        return None
    spec = _find(top)
    if spec is None or here in _folders(spec):
        return None
    file = here.joinpath(*parts)
    return file / "__init__.py" if file.is_dir() else file.with_name(f"{file.name}.py")


def _find(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        return None


def _folders(spec: ModuleSpec) -> list[Path]:
    """The folders that hold a module or a package."""
    places = spec.submodule_search_locations or [spec.origin or ""]
    return [Path(place).resolve().parent for place in places]


def _hides(name: str, what: str, hidden: Path) -> ValueError:
    place, _, attribute = name.partition(":")
    top = place.partition(".")[0]
    spec = _find(top)
    origin = "" if spec is None else f" ({spec.origin})"
    kind = "this project's own package" if top in OURS else f"another module{origin}"
    here = Path.cwd()
    theirs = f"folder {top}" if (here / top).is_dir() else f"file {top}.py"
    return ValueError(
        f"{what} {name!r}: {top} is {kind}, not the {theirs} in {here}; name the file instead:"
        f" --{what} {hidden.relative_to(here)}:{attribute}"
    )


def _whose(module_name: str) -> str:
    top = module_name.partition(".")[0]
    return f" ({top} is this project's own package)" if top in OURS else ""


# By file ---------------------------------------------------------------------------------------


def _load_file(name: str, what: str) -> ModuleType:
    """Load a file under a private name, once a process.

    In a package it becomes a submodule of it, so that relative imports work; the package too has
    a private name, so that it may be called as one of ours.
    """
    place = name.rpartition(":")[0]
    path = absolute(place)
    if not is_file(path):
        found = "is no file" if path.exists() else "there is no such file"
        near = _suggestion(path.name, (p.name for p in path.parent.glob("*.py")))
        raise ValueError(f"{what} {name!r}: {found}: {path}{near}; give the path of a .py file")
    path = path.resolve()
    packages = _packages(path.parent)
    top = packages[-1].parent if packages else path.parent
    for folder in (path.parent, top):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # at the end, where it hides nothing
    module_name = _private_name(packages[-1] if packages else path)
    with users_code(f"importing {place} for {what} {name!r}"):
        for package in reversed(packages):
            if package is not packages[-1]:
                module_name += f".{package.name}"
            module = _execute(module_name, package / "__init__.py", [str(package)])
        if not packages:
            return _execute(module_name, path)
        if path.name == "__init__.py":
            return module
        return _execute(f"{module_name}.{path.stem.replace('.', '_')}", path)


def _packages(folder: Path) -> list[Path]:
    """The packages that a folder's files are in, the innermost first."""
    packages = []
    while (folder / "__init__.py").is_file():
        packages.append(folder)
        folder = folder.parent
    return packages


def _private_name(path: Path) -> str:
    digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    return f"users_{path.stem.replace('.', '_')}_{digest}"


def _execute(module_name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(
        module_name, path, submodule_search_locations=folders
    )
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
