"""A chat endpoint on the loopback, OpenAI-compatible, whose model knows the answers: for tests and measurements.

    with LoopbackChat(knowing(truths)) as server:
        server.url                                  # for `endpoint`
        server.fail_next(429, retry_after=1)        # the next call is answered so
        server.faults = 0.3                         # a share of all calls goes wrong, each call twice at most
        server.answers                              # how many answers were sent whole, by request

    python tests/loopback_chat.py --port 8123 --seconds 0.05 --at-once 16      # for a process of its own

Answers depend on what is asked and on nothing else, so that a run with faults can be compared with one without.
"""

import argparse
import base64
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


FAULTS = (429, 500, "drop", "hang", "cut", "wrong", "no completion")
NUMBERS = ("one", "two", "three", "four", "five")
Model = Callable[[dict[str, Any]], dict[str, Any] | str]


class LoopbackChat:
    """The server. Use it as a context manager.

    Args:
        model (`Callable`): answers what is asked (see `Asked`) with the value of the JSON object, or with a text.
        key (`str`): without it calls are refused by 401.
        blind (`bool`): calls with images are refused by 400.
        without (`tuple[str, ...]`): fields that are refused by 422, as servers do that do not know them.
        seconds (`float`): that an answer takes; `at_once` of them are made at a time.
        faults (`float`): the share of calls that go wrong, decided by `seed`; none more than twice.
        usage (`bool`): whether tokens are counted.
    """

    def __init__(self, model: Model, **options: Any):
        self.model = model
        self.key = options.pop("key", "")
        self.blind = options.pop("blind", False)
        self.without = options.pop("without", ())
        self.seconds = options.pop("seconds", 0.0)
        self.faults = options.pop("faults", 0.0)
        self.usage = options.pop("usage", True)
        self.kinds = options.pop("kinds", FAULTS)
        self.hang = options.pop("hang", 3.0)
        self._slots = threading.Semaphore(options.pop("at_once", 1000))
        self._random = random.Random(options.pop("seed", 0))
        self._port = options.pop("port", 0)
        assert not options, options
        self.bodies: list[dict[str, Any]] = []
        self.keep_bodies = True
        self.answers: Counter[str] = Counter()
        self.given: Counter[Any] = Counter()
        self._wrong: Counter[str] = Counter()
        self._next: deque = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> "LoopbackChat":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # an answer leaves in one piece: the second of two would wait for 40 ms

            def do_POST(self):
                server.handle(self)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args):
                pass  # a client that was killed

        self._server = Server(("127.0.0.1", self._port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail_next(self, fault: int | str, retry_after: str | None = None, times: int = 1, message: str = "") -> None:
        """Let the next calls go wrong: an HTTP status, or one of `FAULTS`."""
        self._next += [(fault, retry_after, message)] * times

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        """Answer one call."""
        content = http.rfile.read(int(http.headers["Content-Length"]))
        body = json.loads(content)
        name = hashlib.sha256(content).hexdigest()
        if http.path != "/v1/chat/completions":
            return _send(http, 404, {"error": {"message": "no such path"}})
        if self.key and http.headers.get("Authorization") != f"Bearer {self.key}":
            said = http.headers.get("Authorization")
            return _send(http, 401, {"error": {"message": f"Incorrect API key provided: {said}"}})
        for field in self.without:
            if field in body:
                return _send(http, 422, {"detail": f"Unsupported fields in the request: {{'{field}'}}"})
        asked = Asked(body)
        if self.blind and asked.images:
            return _send(http, 400, {"error": {"message": "this model takes text only"}})
        with self._lock:
            if self.keep_bodies:
                self.bodies.append(body)
            fault, retry_after, message = self._fault_for(name)
            self.given[fault] += fault is not None
        with self._slots:
            time.sleep(self.seconds)
        return self._answer(http, asked, name, fault, retry_after, message)

    def _fault_for(self, name: str) -> tuple:
        if self._next:
            return self._next.popleft()
        if self._wrong[name] < 2 and self._random.random() < self.faults:
            self._wrong[name] += 1
            fault = self._random.choice(self.kinds)
            return fault, "0.1" if fault == 429 else None, ""
        return None, None, ""

    def _answer(self, http, asked: "Asked", name: str, fault: Any, retry_after: str | None, message: str) -> None:
        if isinstance(fault, int):
            headers = {"Retry-After": retry_after} if retry_after else {}
            return _send(http, fault, {"error": {"message": message or "not now"}}, headers)
        if fault == "hang":
            time.sleep(self.hang)
        if fault in ("drop", "hang"):
            http.close_connection = True
            http.connection.shutdown(socket.SHUT_RDWR)
            return None
        if fault == "no completion":
            return _send(http, 200, {"object": "list", "data": []})
        try:
            made = self.model(asked)
        except ConnectionError as error:  # a model that has crashed
            return _send(http, 500, {"error": str(error)})
        text = made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)
        finish = "stop"
        if fault == "cut":
            text, finish = text[: len(text) // 2], "length"
        elif fault == "wrong":
            text = '{"thoughts": "I would rather not"}'
        usage = {"prompt_tokens": len(asked.system + asked.user) // 4, "completion_tokens": len(text) // 4 + 1}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        answer = {"object": "chat.completion", "model": asked.model, "choices": [choice]}
        with self._lock:
            self.answers[name] += 1
        return _send(http, 200, answer | ({"usage": usage} if self.usage else {}))


def _send(http: BaseHTTPRequestHandler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
    content = json.dumps(value).encode()
    try:
        http.send_response(status)
        for name, text in (headers or {}).items():
            http.send_header(name, text)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)
    except OSError:  # the client was killed
        http.close_connection = True


class Asked:
    """What a call asks, as a model would understand it.

    Attributes:
        kind (`str`): the fields of the answer, such as `"reason, statement"`.
        material (`dict`): the caption, the statement and so on.
        images (`list[bytes]`): what is shown.
        language (`str`): of the answer.
        seed (`int`, *optional*): of the sampling.
    """

    def __init__(self, body: dict[str, Any]):
        self.model, self.seed = body["model"], body.get("seed")
        self.system, content = body["messages"][0]["content"], body["messages"][1]["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        self.user = parts[-1]["text"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        self.images = [base64.b64decode(url.partition(",")[2]) for url in urls]
        form = re.search(r"nothing else: \{(.*)\}\n?", self.system)[1]
        self.kind = ", ".join(re.findall(r'"(\w+)": ', form))
        found = re.search(r"<material>\n(.*)\n</material>", self.user)
        self.material = json.loads(found[1]) if found else {}
        self.language = re.search(r"- Write in ([\w ()-]+)\.", self.system)[1]


def echo(asked: Asked) -> dict[str, Any]:
    """A model that makes everything of a number, which is a hash of what it is shown: right in form, without sense."""
    if asked.kind == "caption":
        number = int(hashlib.sha256(b"".join(asked.images)).hexdigest()[:8], 16)
        begin = "To be painted:" if "illustrator" in asked.system or "crew" in asked.system else "Here"
        return {
            "caption": f"{begin} a red square number {number} stands to the left of a blue circle, and there are "
            "three small stars above it, one of them with the word 'SALE' on it, brightly lit, before all goes dark."
        }
    number = re.search(r"number (\d+)", json.dumps(asked.material))
    number = number[1] if number else "0"
    if asked.kind == "reason, statement":
        if "pronoun" in asked.system:
            return {"reason": "nothing is referred to", "statement": None}
        statement = f"The red square number {number} is first left of the one 'SALE'."
        return {"reason": "it says so", "statement": statement}
    if asked.kind == "statements":
        wrong = ("right of", "below", "inside of")
        return {"statements": [f"The red square number {number} is first {one} the one 'SALE'." for one in wrong]}
    if asked.kind == "question, answer":
        return {"question": "Which word can be seen?", "answer": f"The word is 'SALE', at number {number}."}
    if asked.kind == "verdict":
        return {"verdict": "true" if "left of" in asked.material["statement"] else "false"}
    if asked.kind == "same":
        return {"same": [False] * len(asked.material["statements"])}
    return {"choice": 1}


def main() -> None:
    """Serve `echo` until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--at-once", type=int, default=1000)
    options = parser.parse_args()
    with LoopbackChat(echo, port=options.port, seconds=options.seconds, at_once=options.at_once) as server:
        server.keep_bodies = False
        print(server.url, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
