"""The practice collection of quotes: several cards on a page, and pages in a row."""

from __future__ import annotations

from crawler import Request, Response, Results, Spider, item
from crawler.errors import NoMatch


@item(key="text")
class Quote:
    """One card."""

    text: str
    author: str
    tags: list[str]
    page: str


class Quotes(Spider):
    """https://quotes.toscrape.com: all quotes, or those of one author or one tag."""

    start_urls = ["https://quotes.toscrape.com/"]

    author: str = ""
    """Keep only the quotes of this author; empty: everybody's."""
    tag: str = ""
    """Read the list of this tag; empty: the list of all quotes."""

    def start(self) -> Results:
        """The list of a tag is a page of its own."""
        for url in self.start_urls:
            yield Request(f"{url}tag/{self.tag}/" if self.tag else url, self.parse)

    def parse(self, page: Response) -> Results:
        """The next page first, then card by card: a broken one costs itself alone."""
        yield from page.follow_all("li.next a", self.parse)
        broken: list[NoMatch] = []
        for card in page.css("div.quote"):
            try:
                quote = Quote(
                    text=card.get("span.text").strip("“”"),
                    author=card.get("small.author"),
                    tags=card.getall("a.tag"),
                    page=page.url,
                )
            except NoMatch as error:
                broken.append(error)
                continue
            if self.author in ("", quote.author):
                yield quote
        if broken:
            raise broken[0]
