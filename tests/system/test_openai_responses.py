"""test_openai_responses.py - the Responses API through the official client.

Owns:      create, stream, continue, retrieve, delete; what is kept and what is not.
Does not:  sampling and errors common to all calls (test_openai.py).
"""
import openai
import pytest

MODEL = "gemma3-270m"
ASK = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}


def messages_of(*turns):
    """User and assistant in turn."""
    return [{"role": "assistant" if i % 2 else "user", "content": text}
            for i, text in enumerate(turns)]


def chat_text(client, messages):
    got = client.chat.completions.create(model=MODEL, messages=messages, temperature=0,
                                         max_tokens=24)
    return got.choices[0].message.content


def test_create(client):
    got = client.responses.create(input="Count to three.", metadata={"a": "b"}, **ASK)
    assert got.output_text == chat_text(client, messages_of("Count to three."))
    assert got.id.startswith("resp_") and got.object == "response" and got.metadata == {"a": "b"}
    assert got.status in ("completed", "incomplete") and got.usage.total_tokens > 0
    assert got.output[0].role == "assistant" and got.output[0].content[0].type == "output_text"
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Count to three."}]}]
    assert client.responses.create(input=items, **ASK).output_text == got.output_text
    cut = client.responses.create(model=MODEL, temperature=0, input="Tell a long story.",
                                  max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert cut.usage.output_tokens == 3


def test_stream(client):
    plain = client.responses.create(input="Count to three.", **ASK)
    with client.responses.stream(input="Count to three.", **ASK) as stream:
        events = list(stream)
        last = stream.get_final_response()
    kinds = [e.type for e in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(e.delta for e in events[4:-4]) == plain.output_text == last.output_text
    raw = list(client.responses.create(input="Count to three.", stream=True, **ASK))
    assert [e.sequence_number for e in raw] == list(range(len(raw)))
    for event in raw:  # what the client's types say, without a warning
        type(event).model_validate(event.to_dict(), strict=False)
    assert client.responses.retrieve(raw[-1].response.id).output_text == plain.output_text


def test_a_response_is_a_point_that_two_may_continue(client):
    first = client.responses.create(input="My name is Ada.", **ASK)
    said = ("My name is Ada.", first.output_text)
    left = client.responses.create(input="What is my name?", previous_response_id=first.id, **ASK)
    right = client.responses.create(input="Say hello.", previous_response_id=first.id, **ASK)
    assert left.output_text == chat_text(client, messages_of(*said, "What is my name?"))
    assert right.output_text == chat_text(client, messages_of(*said, "Say hello."))
    assert left.previous_response_id == first.id
    third = client.responses.create(input="And again?", previous_response_id=left.id, **ASK)
    assert third.output_text == chat_text(
        client, messages_of(*said, "What is my name?", left.output_text, "And again?"))


def test_instructions_are_not_inherited(client):
    first = client.responses.create(input="Greet me.", instructions="Answer in French.", **ASK)
    system = {"role": "system", "content": "Answer in French."}
    assert first.output_text == chat_text(client, [system, *messages_of("Greet me.")])
    assert first.instructions == "Answer in French."
    second = client.responses.create(input="Again.", previous_response_id=first.id, **ASK)
    assert second.output_text == chat_text(
        client, messages_of("Greet me.", first.output_text, "Again."))
    assert second.instructions is None


def test_what_is_kept(client):
    kept = client.responses.create(input="Hello", **ASK)
    assert client.responses.retrieve(kept.id).to_dict() == kept.to_dict()
    client.responses.delete(kept.id)
    for call in (lambda: client.responses.retrieve(kept.id),
                 lambda: client.responses.delete(kept.id),
                 lambda: client.responses.create(input="x", previous_response_id=kept.id, **ASK)):
        with pytest.raises(openai.NotFoundError):
            call()
    gone = client.responses.create(input="Hello", store=False, **ASK)
    assert gone.output_text == kept.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(gone.id)


def test_logprobs(client):
    got = client.responses.create(input="Hello", top_logprobs=2,
                                  include=["message.output_text.logprobs"], **ASK)
    listed = got.output[0].content[0].logprobs
    assert b"".join(bytes(t.bytes) for t in listed).decode() == got.output_text
    assert all(len(t.top_logprobs) == 2 for t in listed)
