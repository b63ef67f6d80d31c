"""The one exception a user of firstlight has to know."""


class FirstlightError(Exception):
    """Something the caller can put right: what was asked, why it cannot be done, and the way out.

    Attributes:
        slug: stable short name of the kind of error, for programs and for the help pages.
        call: what was asked for, as the user would write it (``scan("photos/")``); may be empty.
        cause: why it cannot be done, one sentence.
        way_out: what to do instead, one sentence.
    """

    def __init__(self, cause: str, way_out: str, *, slug: str, call: str = "") -> None:
        super().__init__(cause, way_out)
        self.cause = cause
        self.way_out = way_out
        self.slug = slug
        self.call = call

    def __str__(self) -> str:
        head = f"{self.call}: " if self.call else ""
        return f"{head}{self.cause}\n  Way out: {self.way_out}"
