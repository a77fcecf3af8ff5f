"""What a type checker says about options of requests, settings and selectors."""

from __future__ import annotations

from crawler import Request, Response, Settings, Spider, item
from crawler.pages import Pages
from crawler.plugins import Plugin


class Right(Spider):
    settings = Settings(limit=3, contact="https://example.com/bot")
    statuses = {404}
    allowed_domains = ["example.com"]


class AlsoRight(Pages):
    settings = Settings(limit=3)
    allowed_domains = {"example.com"}


class Auth(Plugin):
    async def before_request(self, request: Request) -> Request:
        return request.replace(headers={"Authorization": "x"}, timeout=3)

    def closed(self, result: object) -> None: ...


class Wrong(Plugin):
    def before_request(self, request: Request) -> None: ...  # E: in supertype


@item
class Tag:
    name: str


def right(page: Response) -> tuple[str, str | None, str | int, list[str]]:
    found = page.first("a").get("b", "title", default=0)
    return page.get("a"), page.get("a", default=None), found, page.getall("a::attr(href)")


def wrong(page: Response, tag: Tag) -> None:
    Request("u", method=3)  # E: incompatible type "int"; expected "str"
    Request("u", colour="red")  # E: Unexpected keyword argument "colour"
    Request("u", None, "POST")  # E: Too many positional arguments
    Request("u").priority = 3  # E: is read-only
    Request("u").replace(prioritty=3)  # E: Unexpected keyword argument "prioritty"
    Request("u").replace(priority="3")  # E: incompatible type "str"; expected "int"
    Request("u", timeout="5")  # E: incompatible type "str"; expected "float | None"
    Request("u", statuses=404)  # E: incompatible type "int"; expected "tuple[int, ...]"
    page.follow_all("a", Right().parse).replace(prio=3)  # E: Unexpected keyword argument "prio"
    Settings(limitt=3)  # E: Unexpected keyword argument "limitt"
    Settings(limit="3")  # E: incompatible type "str"
    page.get("a", default=None).strip()  # E: Item "None" of "str | None" has no attribute
    page.first("a").strip()  # E: "Node" has no attribute "strip"
    number: int = page.get("a")  # E: expression has type "str", variable has type "int"
    page.form("form", user=number)  # E: incompatible type "int"
    tag.name = "x"  # E: is read-only
