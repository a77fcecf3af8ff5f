"""Spider: what people subclass. Start URLs, callbacks, arguments and settings of a crawl.

Owns: names, arguments (conversion and checks), the start requests, callbacks by name.
Does not own: running it (`engine`), finding it (`cli`), or hooks' order (`plugins`).

Invariants: an argument that nobody declared, or of another type, never reaches a crawl;
equal arguments have one canonical form; a callback is found under the name it was stored.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Mapping
from copy import copy
from inspect import get_annotations, getattr_static
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

import msgspec

from crawler.errors import FetchError, SpiderError, SpiderLoadError, UsageError, nearest
from crawler.items import check_table_name
from crawler.options import are_statuses
from crawler.plugins import Plugin
from crawler.request import Callback, Request, Results
from crawler.retry import Retry
from crawler.settings import Settings
from crawler.urls import canonicalise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from crawler.response import Response

__all__ = ["Spider"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}").fullmatch
_AS_SET = Settings()


class Spider(Plugin):
    """A crawl to be: subclass it, set what it needs, and write `parse`.

    Annotated attributes of a subclass are its arguments, given by keyword or by `-a`;
    those without a value must be given. ClassVar and names with `_` in front are not.
    """

    name: str
    """Default: the class's name in lower case. Also the database's, `<name>.db`."""
    start_urls: Iterable[str] = ()
    allowed_domains: Collection[str] | None = None
    """Domains, with their subdomains, that links may lead to; None: any that the spider
    asks for by itself, and the start URLs' hosts where it follows every link."""
    retry: Retry | None = None
    """None: `Retry()`."""
    statuses: Collection[int] = ()
    """Statuses that are delivered besides 2xx; others fail as `http-404`."""
    plugins: Sequence[Plugin] = ()
    table: str = "items"
    """Where items go that are mappings."""

    _fetch: Callable[[Request], Awaitable[Response]] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower().lstrip("_")
        if not isinstance(cls.name, str) or not _NAME(cls.name):
            raise SpiderLoadError(
                f"{cls.__name__}: `{cls.name}` cannot be the name of a spider",
                hint='give it one of small letters, digits, - and _: name = "..."',
            )
        try:
            check_table_name(cls.table, f"spider {cls.name}")
        except UsageError as error:
            raise SpiderLoadError(str(error), hint='table = "..."') from error

    def __init__(self, /, **arguments: Any) -> None:
        """Take arguments, as values or as text. Raises SpiderLoadError."""
        declared = self._declared()
        for name in arguments:
            if name not in declared:
                raise _unknown_argument(self.name, name, declared)
        for name, hint in declared.items():
            if name in arguments:
                setattr(self, name, _converted(self.name, name, arguments[name], hint))
            elif not hasattr(type(self), name):
                raise SpiderLoadError(
                    f"spider {self.name} needs the argument {name} ({_expected(hint)})",
                    hint=f"-a {name}=...",
                )
            elif isinstance(getattr(self, name), list | dict | set):
                setattr(self, name, copy(getattr(self, name)))
        _check_attributes(self)

    def __repr__(self) -> str:
        given = " ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"<Spider {self.name}{' ' if given else ''}{given}>"

    @property
    def settings(self) -> Settings:
        """Settings of this spider; assign `settings = Settings(...)`, or override."""
        return _AS_SET

    # Arguments ------------------------------------------------------------------------

    @classmethod
    def _declared(cls) -> dict[str, Any]:
        """Name to type of the arguments, in the order in which they are declared."""
        hints: dict[str, Any] = {}
        try:
            for owner in reversed(cls.__mro__):
                if issubclass(owner, Spider) and owner is not Spider:
                    hints |= get_annotations(owner, eval_str=True)
        except Exception as error:  # an annotation is any expression, and may raise anything
            raise SpiderLoadError(
                f"spider {cls.name}: its annotations cannot be read: {error}",
                hint="import their names at run time, not under TYPE_CHECKING",
            ) from error
        own = {"settings", *get_annotations(Spider)}
        return {
            name: hint
            for name, hint in hints.items()
            if not (name.startswith("_") or name in own or get_origin(hint) is ClassVar)
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """Name to value of every argument, defaults included."""
        return {name: getattr(self, name) for name in self._declared()}

    def canonical_arguments(self) -> str:
        """The arguments as JSON with sorted keys: what a run is found again by.

        Raises SpiderLoadError for a value that has no JSON form.
        """
        try:
            return msgspec.json.encode(self.arguments, order="deterministic").decode()
        except (TypeError, ValueError) as error:
            raise SpiderLoadError(
                f"spider {self.name}: an argument has no JSON form: {error}",
                hint="annotate state as ClassVar, or put `_` in front of its name",
            ) from error

    # Callbacks ------------------------------------------------------------------------

    def start(self) -> Results:
        """The first requests: an iterable, or an async generator.

        Iterated again from its beginning on every resume until it has once ended; what it
        repeats is absorbed.
        """
        for url in self.start_urls:
            yield Request(url, self.parse)

    def parse(self, page: Response) -> Results:
        """What is done with a page that no other callback was named for."""
        raise SpiderError(f"spider {self.name} has no parse(self, page): define it")

    def callback(self, name: str) -> Callback:
        """The method that a stored request names. Raises SpiderError when it is gone."""
        found = getattr(self, name, None)
        if found is None or getattr(found, "__func__", None) is None:
            methods = [each for each in dir(type(self)) if callable(getattr(type(self), each))]
            near = nearest(name, methods)
            raise SpiderError(
                f"spider {self.name} has no callback {name}"
                + (f"; did you rename it to {near}?" if near else "")
            )
        return found  # type: ignore[no-any-return]

    def restored_retry(self, changed: Mapping[str, Any]) -> Retry:
        """The Retry of a stored request: the defaults, with these fields changed."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in changed.items()
        }
        return Retry(**given)

    async def fetch(self, request: Request) -> Response:
        """Fetch a page inside an async callback, under the crawl's leases and pace.

        Raises FetchError when no answer came, and RuntimeError outside of a crawl.
        """
        if self._fetch is None:
            raise RuntimeError(f"{self!r} is not being crawled: fetch() works inside callbacks")
        return await self._fetch(request)


def _check_attributes(spider: Spider) -> None:
    """Raises SpiderLoadError for an attribute that would break the crawl later.

    A property is asked by the crawl alone: it may need what `__init__` has not set yet.
    """
    for name, (check, wanted, hint) in _CHECKS.items():
        value = getattr_static(spider, name)
        is_property = hasattr(value, "__get__") and not callable(value)
        if not is_property and not check(value):
            raise SpiderLoadError(
                f"spider {spider.name}: {name} must be {wanted}, not {value!r:.80}",
                hint=_made(name, value) or hint,
            )


def _are_urls(value: object) -> bool:
    if isinstance(value, list | tuple | set):
        return all(isinstance(url, str) for url in value)
    return isinstance(value, Iterable | AsyncIterable) and not isinstance(value, str | bytes)


def _are_domains(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
        return False
    return all(isinstance(name, str) and _domain(name) == name for name in value)


def _domain(text: str) -> str | None:
    """The domain of a URL, or of what was written as a domain; None: there is none."""
    written = text if "://" in text else f"http://{text.removeprefix('*').removeprefix('.')}"
    try:
        return canonicalise(written).domain
    except FetchError:
        return None


def _are_plugins(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, Plugin) for each in value)


def _made(name: str, value: object) -> str | None:
    """The line to write, when it can be told from what was written."""
    several = value if isinstance(value, list | tuple | set) else (value,)
    if name == "allowed_domains":
        domains = [_domain(each) for each in several if isinstance(each, str)]
        return f"{name} = {domains}" if domains and all(domains) else None
    classes = [each.__name__ for each in several if isinstance(each, type)]
    if not classes:
        return None
    made = f"[{classes[0]}()]" if name == "plugins" else f"{classes[0]}()"
    return f"{classes[0]} is a class, make one of it: {name} = {made}"


_CHECKS: dict[str, tuple[Callable[[object], bool], str, str]] = {
    "start_urls": (_are_urls, "a list of URLs", 'start_urls = ["https://..."]'),
    "allowed_domains": (
        _are_domains,
        "a list of domains, in small letters, without scheme and path",
        'allowed_domains = ["example.com"]',
    ),
    "statuses": (are_statuses, "a list of status codes", "statuses = [404]"),
    "retry": (
        lambda value: value is None or isinstance(value, Retry),
        "a Retry",
        "retry = Retry(attempts=5)",
    ),
    "plugins": (_are_plugins, "a list of plugins", "plugins = [MyPlugin()]"),
    "settings": (
        lambda value: isinstance(value, Settings),
        "Settings",
        "settings = Settings(limit=100)",
    ),
}
"""Attribute to its check, what it must be, and how it is written."""


def _unknown_argument(spider: str, name: str, declared: Mapping[str, Any]) -> SpiderLoadError:
    near = nearest(name, declared)
    known = f"its arguments: {', '.join(declared)}" if declared else "it takes none"
    return SpiderLoadError(
        f"spider {spider} has no argument {name}",
        hint=f"did you mean {near}? {known}" if near else known,
    )


def _converted(spider: str, name: str, value: Any, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(value, str) and value[:1] in ("[", "{"):
            try:
                return msgspec.json.decode(value, type=hint)
            except msgspec.DecodeError:
                pass
        raise SpiderLoadError(
            f"argument {name}={value} of spider {spider}: expected {_expected(hint)}"
        ) from error
    except TypeError as error:
        raise SpiderLoadError(
            f"argument {name} of spider {spider} has a type that cannot be given: {error}"
        ) from error


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(str(value) for value in get_args(hint))}"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
