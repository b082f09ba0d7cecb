"""A page of HTML as tests read it."""

from __future__ import annotations

import html.parser


class TagCounter(html.parser.HTMLParser):
    """Which tags are still open, which there were, and the text between them."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
