#!/usr/bin/env python3
# The PyPI package `openai` against the daemon's Unix socket, or its TCP door. Invariant: every check raises when it fails.
"""usage: openai_client.py SOCKET | URL TOKEN      the daemon serves `tiny` (chat) and `plain` (no tokenizer)"""
import sys

import httpx2
import openai

GREEDY = dict(model="tiny", temperature=0)
HELLO = [{"role": "user", "content": "hello"}]


def models(client):
    ids = {model.id for model in client.models.list()}
    assert {"tiny", "plain"} <= ids, ids


def chat(client):
    answer = client.chat.completions.create(**GREEDY, messages=HELLO, max_tokens=12)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason == "length", choice
    assert answer.usage.completion_tokens == 12, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12, answer.usage
    again = client.chat.completions.create(**GREEDY, messages=HELLO, max_completion_tokens=12)
    assert again.choices[0].message.content == choice.message.content
    return choice.message.content


def chat_stream(client, expected):
    stream = client.chat.completions.create(
        **GREEDY, messages=HELLO, max_tokens=12, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected, (text, expected)
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == ["length"], reasons
    usage = [c.usage for c in chunks if c.usage]
    assert len(usage) == 1 and usage[0].completion_tokens == 12, usage


def chat_logprobs(client):
    answer = client.chat.completions.create(**GREEDY, messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 4, content
    for token in content:
        assert token.logprob < 0 and len(token.top_logprobs) == 3, token
        assert abs(token.top_logprobs[0].logprob - token.logprob) < 1e-6, token


def sampling(client):
    ask = lambda seed: client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=16, temperature=1.0, top_p=0.9, seed=seed,
        presence_penalty=0.1, frequency_penalty=0.1).choices[0].message.content
    assert ask(3) == ask(3)


def stop(client, expected):
    word = expected[4:7]
    answer = client.chat.completions.create(**GREEDY, messages=HELLO, max_tokens=12, stop=[word])
    assert answer.choices[0].finish_reason == "stop", answer
    assert answer.choices[0].message.content == expected[:expected.index(word)], answer


def completions(client):
    answer = client.completions.create(**GREEDY, prompt="one two three", max_tokens=6)
    text = answer.choices[0].text
    assert text and answer.choices[0].finish_reason == "length", answer
    echoed = client.completions.create(**GREEDY, prompt="one two three", max_tokens=6, echo=True, logprobs=2)
    choice = echoed.choices[0]
    assert choice.text == "one two three" + text, choice
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset), logprobs
    assert logprobs.token_logprobs[0] is None and all(x < 0 for x in logprobs.token_logprobs[1:]), logprobs
    assert "".join(logprobs.tokens) == choice.text, logprobs
    pieces = client.completions.create(**GREEDY, prompt="one two three", max_tokens=6, stream=True)
    assert "".join(c.choices[0].text for c in pieces if c.choices) == text


def score_ids(client):
    ids = [7, 9, 11, 200, 30]
    answer = client.completions.create(model="plain", prompt=ids, max_tokens=0, echo=True, logprobs=1)
    got = answer.choices[0].logprobs.token_logprobs
    assert len(got) == len(ids) and got[0] is None and all(x < 0 for x in got[1:]), got
    assert answer.usage.completion_tokens == 0, answer.usage


def fails(kind, call, *words):
    try:
        call()
    except kind as error:
        for word in words:
            assert word in str(error), (word, str(error))
        return
    raise AssertionError(f"no {kind.__name__}")


def errors(client):
    create = client.chat.completions.create
    fails(openai.NotFoundError, lambda: create(model="nobody", messages=HELLO), "nobody")
    fails(openai.BadRequestError, lambda: create(model="tiny", messages=HELLO, temperature=9), "temperature")
    fails(openai.BadRequestError, lambda: create(model="tiny", messages=[]))
    fails(openai.BadRequestError, lambda: create(model="plain", messages=HELLO), "plain")
    ids = [5] * 600
    fails(openai.BadRequestError, lambda: client.completions.create(model="plain", prompt=ids), "600", "512")
    biased = lambda: create(model="tiny", messages=HELLO, logit_bias={"5": 100})
    fails(openai.BadRequestError, biased, "logit_bias")


def hang_up(client):
    """A stream that is closed early ends its job; the daemon serves on."""
    with client.chat.completions.create(**GREEDY, messages=HELLO, max_tokens=60000, stream=True) as stream:
        for _, _ in zip(range(3), stream):
            pass
    chat(client)


def main():
    if len(sys.argv) > 2:
        url, token = sys.argv[1:]
        client = openai.OpenAI(base_url=url, api_key=token, timeout=30, max_retries=0)
        stranger = openai.OpenAI(base_url=url, api_key="wrong", timeout=30, max_retries=0)
        fails(openai.AuthenticationError, lambda: stranger.models.list(), "token")
    else:
        transport = httpx2.HTTPTransport(uds=sys.argv[1])
        http = httpx2.Client(transport=transport, timeout=30)
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)
    models(client)
    text = chat(client)
    chat_stream(client, text)
    chat_logprobs(client)
    sampling(client)
    stop(client, text)
    completions(client)
    score_ids(client)
    errors(client)
    hang_up(client)
    print("all well")


if __name__ == "__main__":
    main()
