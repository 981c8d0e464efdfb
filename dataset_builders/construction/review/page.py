"""The page on which people verify instances, by keyboard alone if they like.

    serve(Review("run"), "127.0.0.1", 7860)

The page keeps nothing: which instance is shown, to whom and since when stand in hidden fields of the browser, and
every decision in the file of the review. A server that is killed and started again goes on where each reviewer was.

Tests: tests/test_review_page.py (in a real browser).
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pyarrow.parquet as pq
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from . import markup
from .decisions import LONGEST, LONGEST_NAME, AlreadyDecidedError, decisions_table
from .instances import FOLDER, NUMBERS, STATEMENTS, Instance
from .login import TRIES, WAIT, Door, KnownAddress, Users, require_login
from .refusal import ReviewError
from .reviewing import Review


REASONS = (
    "The true statement is not in the caption",
    "A false statement is true, or may be",
    "A false statement is too easy to see through",
    "It is not about this category",
    "The caption is wrong about the picture",
    "The language is unclear or wrong",
)
TITLE = "Review"
HERE = Path(__file__).parent
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font is fetched from elsewhere
THEME.set(button_primary_background_fill="*primary_600")  # on which white is read easily
TOP = "() => scrollTo(0, 0)"  # an instance is shown from its beginning
# In the address, so that a page that is loaded again knows the name.
KEEP_NAME = """(name) => {
  const url = new URL(location);
  if (name) url.searchParams.set("reviewer", name);
  history.replaceState(null, "", url);
}"""
FOCUS = "() => {{ setTimeout(() => document.querySelector('{}')?.focus(), 100); }}"
Update = dict[Any, Any]  # by component what it shows from now on


class Page:
    """The components of the page and what their events do.

    Args:
        review (`Review`): what is reviewed.
        users (`Users`, *optional*): who may log in; without them reviewers only say who they are.
    """

    def __init__(self, review: Review, users: Users | None = None):
        self.review, self.users = review, users
        self.folder = tempfile.TemporaryDirectory(prefix="granted-review-")
        with gr.Blocks(title=TITLE, analytics_enabled=False) as self.blocks:
            with gr.Column(elem_id="review"):
                self._place_head()
                with gr.Column(elem_id="item", visible=False) as self.item:
                    with gr.Column(elem_id="left"):
                        self.media = gr.HTML(elem_id="media")
                        self.caption = gr.HTML(elem_id="caption")
                    with gr.Column(elem_id="right"):
                        self.statements = gr.HTML(elem_id="statements")
                        self._place_fixing()
                        self._place_rejecting()
                        self._place_actions()
                self.open = gr.State(False)  # whether the overview is
                self.overview = gr.HTML(elem_id="overview", visible=False)
                self.download = gr.DownloadButton("Download all decisions", visible=False, elem_id="download")
            self._connect()

    # ------------------------------------------------------------------------------------------------------ components

    def _place_head(self) -> None:
        self.reviewer = gr.Textbox(visible="hidden", elem_id="reviewer")
        self.shown = gr.Textbox(visible="hidden", elem_id="shown")  # JSON: which instance, and since when
        with gr.Group(visible=False) as self.entry:
            self.name = gr.Textbox(label="Who is reviewing?", max_length=LONGEST_NAME, autofocus=True, elem_id="name")
            self.start = gr.Button("Start (Enter)", variant="primary", elem_id="start")
        self.bar = gr.HTML(elem_id="bar")
        self.notice = gr.HTML(elem_id="notice")

    def _place_fixing(self) -> None:
        with gr.Group(visible=False, elem_id="fixing") as self.fixing:
            self.texts = [
                gr.Textbox(lines=1, max_lines=6, max_length=LONGEST, elem_id=f"fixed-{number}", interactive=True)
                for number in NUMBERS
            ]
            self.true = gr.Radio(NUMBERS, label="The true one", elem_id="true", interactive=True)
            with gr.Row():
                self.save_fix = gr.Button("Save (Ctrl+Enter)", variant="primary", elem_id="save-fix", min_width=120)
                self.cancel_fix = gr.Button("Cancel (Esc)", elem_id="cancel-fix", min_width=120)

    def _place_rejecting(self) -> None:
        with gr.Column(visible=False, elem_id="rejecting") as self.rejecting:
            self.reasons = [
                gr.Button(f"{number}   {reason}", elem_id=f"reason-{number}", elem_classes="reason")
                for number, reason in enumerate(REASONS, start=1)
            ]
            self.reason = gr.Textbox(
                label="Another reason (T to type)", max_length=LONGEST, lines=1, max_lines=4, elem_id="reason-text"
            )
            with gr.Row():
                self.save_reason = gr.Button(
                    "Save (Ctrl+Enter)", variant="primary", elem_id="save-reason", min_width=120
                )
                self.cancel_reason = gr.Button("Cancel (Esc)", elem_id="cancel-reason", min_width=120)

    def _place_actions(self) -> None:
        with gr.Row(elem_id="actions") as self.actions:
            self.accept = gr.Button("Accept (A)", variant="primary", elem_id="accept")
            self.fix = gr.Button("Fix (F)", elem_id="fix")
            self.reject = gr.Button("Reject (R)", elem_id="reject")
            self.null = gr.Button("Null (N)", elem_id="null")
            self.undo = gr.Button("Undo (U)", elem_id="undo")
            self.progress = gr.Button("Progress (P)", elem_id="progress")

    def _connect(self) -> None:
        changed = [
            *(self.reviewer, self.shown, self.entry, self.bar, self.notice, self.item, self.media, self.statements),
            *(self.fixing, *self.texts, self.true, self.rejecting, self.reason, self.caption, self.actions),
            *(self.accept, self.fix, self.reject, self.null, self.open, self.overview, self.download),
        ]
        known = [self.reviewer, self.shown]

        def on(event: Callable, answer: Callable, inputs: list | set | None = None, js: str | None = None) -> None:
            private = {"api_visibility": "private", "show_progress": "hidden"}
            then = event(answer, known if inputs is None else inputs, changed, **private)
            if js:
                then.then(None, [self.reviewer], None, js=js, **private)

        on(self.blocks.load, self.on_load, [])
        on(self.start.click, self.on_start, [self.name], KEEP_NAME)
        on(self.name.submit, self.on_start, [self.name], KEEP_NAME)
        on(self.accept.click, self.on_accept, js=TOP)
        on(self.null.click, self.on_null, js=TOP)
        on(self.undo.click, self.on_undo, js=TOP)
        on(self.fix.click, self.on_fix, js=FOCUS.format("#fixed-1 textarea"))
        on(self.save_fix.click, self.on_save_fix, {*known, self.true, *self.texts}, TOP)
        on(self.reject.click, self.on_reject)
        on(self.save_reason.click, self.on_reason, [*known, self.reason], TOP)
        for button, reason in zip(self.reasons, REASONS):
            on(button.click, self.on_reason, [*known, gr.State(reason)], TOP)
        for button in (self.cancel_fix, self.cancel_reason):
            on(button.click, self.on_cancel)
        on(self.progress.click, self.on_progress, [self.open])

    # ---------------------------------------------------------------------------------------------------------- events

    def on_load(self, request: gr.Request) -> Update:
        """The page is opened, or loaded again: go on where this reviewer was."""
        name = request.username if self.users else request.query_params.get("reviewer", "")
        return self.on_start(name, request) if name else {self.entry: gr.update(visible=True)}

    def on_start(self, name: str, request: gr.Request) -> Update:
        """A reviewer says who they are."""
        try:
            return self._show(self.review.join(self._who(name, request)))
        except ReviewError as error:
            return {self.entry: gr.update(visible=True), self.notice: markup.notice(str(error))}

    def on_accept(self, name: str, shown: str, request: gr.Request) -> Update:
        """What is shown is right as it is."""
        return self._decide(name, shown, request, "accept")

    def on_null(self, name: str, shown: str, request: gr.Request) -> Update:
        """The caption says nothing of this category."""
        return self._decide(name, shown, request, "null")

    def on_reason(self, name: str, shown: str, reason: str, request: gr.Request) -> Update:
        """What is shown is rejected.

        Args:
            name (`str`), shown (`str`): the reviewer, and the instance that they see.
            reason (`str`): why.
            request (`gr.Request`): says who is logged in.
        """
        return self._decide(name, shown, request, "reject", reason=reason)

    def on_save_fix(self, values: dict[Any, Any], request: gr.Request) -> Update:
        """Other texts, or another true statement, replace those that are shown; all fields come as a dict."""
        name, shown = values[self.reviewer], values[self.shown]
        instance = self._instance(shown)
        statements, label = [""] * STATEMENTS, -1
        if instance:
            order = self.review.shown_order(self._who(name, request), instance)
            for index, field in zip(order, self.texts):
                statements[index] = values[field]
            label = order[NUMBERS.index(values[self.true])]
        return self._decide(name, shown, request, "fix", fixed=(statements, label))

    def on_undo(self, name: str, shown: str, request: gr.Request) -> Update:
        """Take back the last decision and show its instance again."""
        reviewer = self._who(name, request)
        try:
            undone = self.review.undo(reviewer)
        except ReviewError as error:
            return {self.notice: markup.notice(str(error))}
        if undone is None:
            return {self.notice: markup.notice("There is no decision of yours to undo.")}
        words = f"Undone: you had decided {undone.decision}{f' ({undone.reason})' if undone.reason else ''}."
        return self._show(reviewer, words, self.review.instances.get(undone.instance))

    def on_fix(self, name: str, shown: str, request: gr.Request) -> Update:
        """Open the fields in which statements are edited, in the order in which they are shown."""
        instance = self._instance(shown)
        if instance is None:
            return self._show(self._who(name, request))
        order = self.review.shown_order(self._who(name, request), instance)
        fields = {
            field: gr.update(
                value=instance.statements[index], label=f"{number}   {'true' if index == instance.label else 'false'}"
            )
            for field, index, number in zip(self.texts, order, NUMBERS)
        }
        opened = {self.fixing: gr.update(visible=True), self.actions: gr.update(visible=False), self.notice: ""}
        asked = {self.statements: markup.statements(instance, [])}
        return opened | asked | fields | {self.true: NUMBERS[order.index(instance.label)]}

    def on_reject(self, name: str, shown: str, request: gr.Request) -> Update:
        """Open the reasons."""
        opened = {self.rejecting: gr.update(visible=True), self.actions: gr.update(visible=False)}
        return opened | {self.reason: "", self.notice: ""}

    def on_cancel(self, name: str, shown: str, request: gr.Request) -> Update:
        """Close what was opened; the time goes on."""
        return self._show(self._who(name, request), instance=self._instance(shown)) | {self.shown: shown}

    def on_progress(self, is_open: bool, request: gr.Request) -> Update:
        """Open or close the tables of progress and agreement."""
        closed = {self.open: False, self.overview: gr.update(visible=False), self.download: gr.update(visible=False)}
        if is_open:
            return closed
        review, is_owner = self.review, not self.users or request.username == self.users.names()[0]
        gold = review.gold_scores() if is_owner else []  # from which others could see what is gold
        tables = markup.overview(review.all_progress(), gold, review.agreement())
        opened = {self.open: True, self.overview: gr.update(value=tables, visible=True)}
        if self.users and is_owner:  # whose page is perhaps on another machine
            path = Path(self.folder.name, "rows.parquet")
            pq.write_table(decisions_table(review.decisions(), review.store.gold()), path)
            opened[self.download] = gr.update(value=str(path), visible=True)
        return opened

    # --------------------------------------------------------------------------------------------------------- helpers

    def _who(self, name: str, request: gr.Request) -> str:
        """The reviewer: who has logged in, whatever the page says, or who they say they are."""
        return request.username if self.users else name

    def _instance(self, shown: str) -> Instance | None:
        return self.review.instances.get(_read(shown)[0])

    def _decide(self, name: str, shown: str, request: gr.Request, decision: str, **more: Any) -> Update:
        reviewer = self._who(name, request)
        instance, since = _read(shown)
        try:
            self.review.decide(instance, reviewer, decision, seconds=max(0.0, time.time() - since), **more)
            return self._show(reviewer)
        except AlreadyDecidedError:
            return self._show(reviewer, "You had already decided about that one; what was saved first stands.")
        except ReviewError as error:
            return {self.notice: markup.notice(str(error))}  # and what was typed stays

    def _show(self, reviewer: str, words: str = "", instance: Instance | None = None) -> Update:
        """Everything that is shown to a reviewer now: an instance, by default the next."""
        instance = instance or self.review.next(reviewer)
        order = self.review.shown_order(reviewer, instance) if instance else []
        deciding = (self.accept, self.fix, self.reject, self.null)
        return {
            self.reviewer: reviewer,
            self.shown: json.dumps([instance.instance, time.time()]) if instance else "",
            self.entry: gr.update(visible=False),
            self.bar: markup.progress_bar(self.review.progress(reviewer)),
            self.notice: markup.notice(words or ("" if instance else "All is decided. Thank you.")),
            self.item: gr.update(visible=True),
            self.media: markup.media(instance, self.review.run) if instance else "",
            self.statements: markup.statements(instance, order) if instance else "",
            self.caption: markup.caption(instance) if instance else "",
            self.fixing: gr.update(visible=False),
            self.rejecting: gr.update(visible=False),
            self.actions: gr.update(visible=True),
            **{button: gr.update(interactive=instance is not None) for button in deciding},
        }


def _read(shown: str) -> tuple[str, float]:
    """Which instance a page shows and since when; the browser may send anything."""
    try:
        instance, since = json.loads(shown)
        return str(instance), float(since)
    except (TypeError, ValueError):
        return "", time.time()


def serve(review: Review, host: str, port: int | None, users: Users | None = None) -> None:
    """Serve the page until it is interrupted.

    Args:
        review (`Review`): what is reviewed.
        host (`str`): the address; one that others can reach needs users.
        port (`int`, *optional*): the first free one from 7860 by default.
        users (`Users`, *optional*): who may log in.

    Raises:
        ReviewError: there is no login where one is needed, or the port is taken.
    """
    require_login(host, users)
    page = Page(review, users)
    # Without a login, a page elsewhere whose name was made to lead here (DNS rebinding) could decide.
    names = ["localhost", "127.0.0.1", host, "["]  # the last is how starlette reads [::1]
    guard = Middleware(KnownAddress) if users else Middleware(TrustedHostMiddleware, allowed_hosts=names)
    try:
        page.blocks.launch(
            server_name=host,
            server_port=port,
            auth=Door(users).allows if users else None,
            auth_message=f"After {TRIES} wrong passwords the next try is {WAIT / 60:.0f} minutes later.",
            share=False,  # whatever the environment says: there would be no login
            allowed_paths=[str(review.run / FOLDER)],
            app_kwargs={"middleware": [guard]},
            theme=THEME,
            # Within the head it stays as it is: gradio takes declarations out of what it gets as css.
            head=f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
            js=(HERE / "page.js").read_text(encoding="utf-8"),
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise ReviewError(f"got '{error}' at {host}, expected a free port: choose another --port") from error
