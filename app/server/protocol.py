"""HTTP on one connection, with the fast path of a registration before the application."""

from functools import partial
from typing import Any, cast

from app.api import errors
from app.registry.registration import Registered, Registration
from app.server import fast_path
from app.server.front import Front, refusal
from app.server.http import Head, LimitedProtocol
from app.server.lane import Told
from app.server.wsgi import Answer


class FastCycle:
    """A request on the fast path; the part of uvicorn's cycle that the protocol looks at."""

    __slots__ = ("body", "disconnected", "head", "keep_alive", "response_complete")

    def __init__(self, head: Head):
        self.head = head
        self.keep_alive = head.keep_alive
        self.body = bytearray()
        self.response_complete = False
        self.disconnected = False

    @property
    def message_event(self) -> "FastCycle":
        """Return what uvicorn sets when the connection is lost."""
        return self

    def set(self) -> None:
        """Wake no task: there is none."""


class Protocol(LimitedProtocol):
    """A connection whose plain registrations are answered without a task and without Flask."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._front = cast(Front, self.config.app)
        self._fast: FastCycle | None = None  # whose body comes

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._fast is not None:
            self._fast.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Register, if the request came by the fast path."""
        fast, self._fast = self._fast, None
        if fast is None:
            super().on_message_complete()
        else:
            self._note_complete()
            self._register(fast)

    def _begin(self, head: Head) -> None:
        """Choose the way of a request by its head."""
        is_plain = (
            head.url == fast_path.PATH
            and head.record.method == fast_path.METHOD
            and not self._is_busy
            and len(head.fields) == len(head.headers)
            and fast_path.is_plain(head.fields)
        )
        if is_plain:
            self._fast = FastCycle(head)
            self.cycle = cast(Any, self._fast)
        else:
            super()._begin(head)

    def _break_body(self) -> None:
        """Leave a registration whose body is broken to the view."""
        fast, self._fast = self._fast, None
        if fast is None:
            super()._break_body()
        else:
            self._leave_to_view(fast, is_broken=True)

    def _drop(self) -> None:
        """Forget the request whose body does not come."""
        self._fast = None
        super()._drop()

    def _register(self, fast: FastCycle) -> None:
        """Answer a complete request on the fast path, or leave it to the view."""
        try:
            asked = fast_path.read(fast.head.fields, fast.body, self._front.max_age)
            if asked is None:
                self._leave_to_view(fast)
                return
            fast.head.record.route = fast_path.ROUTE
            self._front.group_commit.register(asked, partial(self._registered, fast, asked))
        except Exception as error:  # whatever it is, the caller gets an answer
            fast.head.record.route = fast_path.ROUTE
            self._write(fast, refusal(error, fast.head.record))

    def _registered(self, fast: FastCycle, asked: Registration, outcome: Told) -> None:
        """Answer with what became of a registration."""
        if isinstance(outcome, Registered):
            fast.head.record.user_id = asked.user_id
            fast.head.record.end(200)
            self._write(fast, fast_path.answer(outcome, fast.head.record))
        elif outcome is None and self._front.max_age is not None:
            self._leave_to_view(fast)  # which asks the identity provider
        else:
            self._write(
                fast, refusal(outcome or errors.unauthorized(errors.NO_SESSION), fast.head.record)
            )

    def _write(self, fast: FastCycle, answer: Answer) -> None:
        answer.headers.extend(self._front.cors_headers(fast_path.PATH, fast.head.fields))
        if not fast.disconnected:
            self.transport.write(self._serialized(answer, fast.keep_alive))
        fast.response_complete = True
        if not fast.keep_alive:
            self.finish()
        self.on_response_complete()

    def _leave_to_view(self, fast: FastCycle, *, is_broken: bool = False) -> None:
        """Have Flask answer a request that came by the fast path."""
        if fast.disconnected:
            return
        cycle = self._new_cycle(fast.head._replace(keep_alive=fast.keep_alive))
        cycle.body, cycle.more_body = fast.body, False
        cycle.scope["state"]["is_broken"] = is_broken
        cycle.message_event.set()
        if cast(Any, self.cycle) is fast:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
