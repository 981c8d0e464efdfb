"""Calls to an endpoint: what passes is waited for, what cannot pass stops the run in one line, and caps hold."""

import asyncio
import json
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest
import tenacity

from granted.dataset_builders.construction import client as client_module
from granted.dataset_builders.construction.answers import ANSWERS
from granted.dataset_builders.construction.client import Endpoint, NoAnswer, Request
from granted.dataset_builders.construction.prompts import fill, read_prompts
from granted.dataset_builders.construction.store import CallStore
from granted.tests.construction_runs import paid, settings_of
from granted.tests.loopback_chat import LoopbackChat, echo
from granted.utils.errors import InputError


PROMPT = read_prompts()["check_support"]
KEY = "sk-a-secret-that-nobody-sees"
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(client_module, "_jitter", tenacity.wait_none())


def request(number=0, stage="check", images=0):
    material = {"caption": f"A red square number {number}.", "statement": f"The square {number} is left of it."}
    filled = fill(PROMPT, material, "image", "English")
    seen = {"media": f"image {number}", "data_urls": lambda: [PNG] * images} if images else {}
    return Request(stage, f"unit {number}", "m", filled, ANSWERS["verdict"], material, 0.5, 50, 0, **seen)


def ask(tmp_path, server, *requests, **options):
    """The calls that requests get, one after the other, in a run of the given settings."""

    async def asked():
        with CallStore(tmp_path / "calls.sqlite") as store:
            async with Endpoint(settings_of(tmp_path, server, **options), store) as endpoint:
                return [await endpoint.ask(one, attempt) for one, attempt in requests]

    return asyncio.run(asked())


def test_an_answer_is_kept_with_its_cost_and_not_asked_for_again(tmp_path):
    with LoopbackChat(echo) as server:
        first = ask(tmp_path, server, (request(), 0))
        again = ask(tmp_path, server, (request(), 0), (request(), 1), (request(1), 0))
    assert again[0] == first[0] and first[0].fault is None and first[0].finish == "stop"
    assert first[0].prompt_tokens > 100 and first[0].completion_tokens > 0
    assert paid(server) == 3  # another attempt and another request are other calls
    assert len({body["seed"] for body in server.bodies}) == 3


@pytest.mark.parametrize("change", ["stage", "unit", "model", "temperature", "max_tokens", "seed", "media"])
def test_the_key_depends_on_all_that_decides_the_answer(change):
    other = replace(request(), **{change: 9 if change in ("temperature", "max_tokens", "seed") else "other"})
    assert other.key(0) != request().key(0) != request().key(1)


def test_what_is_sent_is_what_servers_of_this_kind_take(tmp_path):
    with LoopbackChat(echo, key=KEY) as server:
        settings = {"key_variable": "A_KEY"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("A_KEY", KEY)
            ask(tmp_path, server, (request(images=2), 0), **settings)
    body = server.bodies[0]
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "image_url", "text"]
    assert body["response_format"]["json_schema"]["schema"] == ANSWERS["verdict"].schema
    assert body["temperature"] == 0.5 and body["max_tokens"] == 50


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "hang", "no completion"])
def test_what_passes_is_waited_for(tmp_path, fault):
    with LoopbackChat(echo, hang=4.0) as server:
        server.fail_next(fault, times=2)
        (call,) = ask(tmp_path, server, (request(), 0), timeout=2.0 if fault == "hang" else 60.0)
    assert call.fault is None and server.given[fault] == 2


def test_a_server_that_says_how_long_to_wait_is_obeyed(tmp_path):
    with LoopbackChat(echo) as server:
        server.fail_next(429, retry_after="0.3")
        server.fail_next(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
        assert ask(tmp_path, server, (request(), 0))[0].seconds >= 0.3
        server.fail_next(429, retry_after="86400")
        with pytest.raises(InputError, match="asks us to wait 86400 s"):
            ask(tmp_path, server, (request(1), 0))
    assert paid(server) == 1


def test_a_call_without_an_answer_is_its_units_alone_until_the_server_is_gone(tmp_path):
    with LoopbackChat(echo) as server:

        async def asked():
            with CallStore(tmp_path / "calls.sqlite") as store:
                async with Endpoint(settings_of(tmp_path, server, retries=2, concurrency=2), store) as endpoint:
                    await endpoint.ask(request(), 0)
                    server.fail_next(500, times=100)
                    for _ in range(2):
                        with pytest.raises(NoAnswer, match="HTTP 500"):
                            await endpoint.ask(request(1), 0)
                    with pytest.raises(InputError, match="got no answer from 127"):
                        await endpoint.ask(request(1), 0)
                    assert store.spent().calls == 1

        asyncio.run(asked())


def test_no_server_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        server = LoopbackChat(echo)
        server.url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=r"got no answer from 127\.0\.0\.1:.*start it or correct endpoint"):
            ask(tmp_path, server, (request(), 0))


@pytest.mark.parametrize("key", ["sk-wrong", ""])
def test_a_wrong_key_is_one_line_without_the_key(tmp_path, monkeypatch, key):
    monkeypatch.setenv("A_KEY", "sk-wrong")
    with LoopbackChat(echo, key=KEY) as server, pytest.raises(InputError, match="HTTP 401") as refused:
        ask(tmp_path, server, (request(), 0), key_variable="A_KEY" if key else "")
    assert "sk-wrong" not in str(refused.value) and "key_variable" in str(refused.value)
    assert not any(b"sk-wrong" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_is_not_set_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with LoopbackChat(echo) as server, pytest.raises(InputError, match="got no key in the environment variable A_KEY"):
        ask(tmp_path, server, (request(), 0), key_variable="A_KEY")


def test_no_key_is_sent_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen = []
    with LoopbackChat(echo) as server:
        handle = server.handle
        server.handle = lambda http: (seen.append(http.headers.get("Authorization")), handle(http))
        ask(tmp_path, server, (request(), 0))
    assert seen == [None]


def test_a_password_of_the_netrc_file_is_not_sent(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("A_KEY", KEY)
    seen = []
    with LoopbackChat(echo) as server:
        handle = server.handle
        server.handle = lambda http: (seen.append(http.headers.get("Authorization")), handle(http))
        ask(tmp_path, server, (request(), 0))
        ask(tmp_path, server, (request(1), 0), key_variable="A_KEY")
    assert seen == [None, f"Bearer {KEY}"]


def test_a_proxy_of_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with LoopbackChat(echo) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        server.url = "http://a-model.invalid/v1"
        with pytest.raises(InputError, match=r"HTTP 404 from a-model\.invalid"):  # of the proxy
            ask(tmp_path, server, (request(), 0))


def test_what_a_server_says_cannot_command_the_terminal(tmp_path):
    with LoopbackChat(echo) as server:
        server.fail_next(404, message="\x1b]0;evil\x07 no \x9b31m model")
        with pytest.raises(InputError) as refused:
            ask(tmp_path, server, (request(), 0))
    assert str(refused.value).isprintable() and "no 31m model" in str(refused.value)


@pytest.mark.parametrize("count", [10**30, -1, "7", None, True])
def test_tokens_that_are_no_count_are_not_counted(count):
    body = {"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": count, "completion_tokens": 2}}
    answer = client_module._answer_of(json.dumps(body).encode())
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (None, 2)


def test_a_model_that_cannot_see_is_one_line(tmp_path):
    with LoopbackChat(echo, blind=True) as server:
        with pytest.raises(InputError, match=r"text only.* expected a model that sees images"):
            ask(tmp_path, server, (request(images=1), 0))
        assert ask(tmp_path, server, (request(), 0))[0].fault is None


def test_a_wrong_address_is_one_line(tmp_path):
    with LoopbackChat(echo) as server:
        server.url += "/v2"
        with pytest.raises(InputError, match=r"HTTP 404 .*correct endpoint or model"):
            ask(tmp_path, server, (request(), 0))


def test_a_later_refusal_is_the_answer_of_its_item(tmp_path):
    with LoopbackChat(echo) as server:
        ask(tmp_path, server, (request(), 0))
        server.fail_next(400, message="too many tokens")
        calls = ask(tmp_path, server, (request(1), 0), (request(1), 0), (request(2), 0))
    assert [call.finish for call in calls] == ["refused", "refused", "stop"]
    assert calls[0].answer == "too many tokens" and "HTTP 400" in calls[0].fault


@pytest.mark.parametrize("field", ["response_format", "seed"])
def test_a_field_that_the_server_does_not_take_is_left_out_from_then_on(tmp_path, field):
    with LoopbackChat(echo, without=(field,)) as server:
        calls = ask(tmp_path, server, (request(), 0), (request(1), 0))
    assert [call.fault for call in calls] == [None, None]
    assert len(server.bodies) == 2 and field not in server.bodies[0]
    with CallStore(tmp_path / "calls.sqlite") as store, CallStore(tmp_path / "other.sqlite") as other:
        assert store.not_sent("check") == [field] and store.not_sent("caption") == []
        other.take(store.path, "check")
        assert other.not_sent("check") == [field]
    with closing(sqlite3.connect(tmp_path / "calls.sqlite")) as older:
        older.execute("DROP TABLE not_sent")
    with CallStore(tmp_path / "third.sqlite") as third:
        third.take(tmp_path / "calls.sqlite", "check")
        assert third.spent().calls == 2 and third.not_sent("check") == []


def test_a_cap_on_calls_holds_and_can_be_raised(tmp_path):
    with LoopbackChat(echo) as server:
        with pytest.raises(InputError, match=r"got to max_calls=2 in stage check.*higher --max-calls"):
            ask(tmp_path, server, *((request(i), 0) for i in range(5)), max_calls=2)
        assert paid(server) == 2
        ask(tmp_path, server, *((request(i), 0) for i in range(5)), max_calls=5)
    assert paid(server) == 5


def test_a_cap_on_tokens_holds(tmp_path):
    with LoopbackChat(echo) as server, pytest.raises(InputError, match="got to max_tokens=300"):
        ask(tmp_path, server, *((request(i), 0) for i in range(5)), max_tokens=300)
    assert paid(server) == 1


def test_a_cap_on_tokens_needs_a_server_that_counts_them(tmp_path):
    with LoopbackChat(echo, usage=False) as server:
        with pytest.raises(InputError, match="without usage"):
            ask(tmp_path, server, (request(), 0), max_tokens=300)
        assert ask(tmp_path, server, (request(), 0))[0].prompt_tokens is None
    assert paid(server) == 1


def test_calls_are_begun_at_an_even_pace(tmp_path):
    begun = time.monotonic()
    with LoopbackChat(echo) as server:
        ask(tmp_path, server, *((request(i), 0) for i in range(4)), calls_per_minute=600)
    assert time.monotonic() - begun >= 0.3  # the first at once, and three a tenth of a second apart


def test_a_cut_or_wrong_answer_is_kept_with_its_fault(tmp_path):
    with LoopbackChat(echo) as server:
        server.fail_next("cut")
        server.fail_next("wrong")
        calls = ask(tmp_path, server, (request(), 0), (request(), 1), (request(), 2))
    assert [bool(call.fault) for call in calls] == [True, True, False]
    assert calls[0].fault == "it was cut at the limit of tokens"
