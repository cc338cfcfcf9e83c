# /// script
# dependencies = ["instructor==1.17.0"]
# ///
"""instructor: pydantic models in each of its modes, streamed, with validation retries, and asynchronous."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

import instructor
import openai
from cases import COUNT, DIGITS, KEY, MODEL, URL, WITHOUT, case, picture_url, run
from instructor.core.exceptions import InstructorError
from pydantic import BaseModel, Field, field_validator

SERVER: dict[str, Any] = {"base_url": URL, "api_key": KEY, "max_retries": 0, "timeout": 300}
OPENAI = openai.OpenAI(**SERVER)
DEFAULT = instructor.from_provider(f"openai/{MODEL}", **SERVER)
SENTENCE = "Anna is a cook. She is 31 years old, and has two dogs: Rex and Bo. Ben is a pilot. He is 27 years old."
PEOPLE: Any = [{"role": "user", "content": f"Extract the people: {SENTENCE}"}]
REVIEW: Any = [{"role": "user", "content": "Classify this review: I love this cheese."}]
PRODUCT: Any = [{"role": "user", "content": COUNT}]


class Dog(BaseModel):
    name: str


class Person(BaseModel):
    """A person, with what is known of it."""

    name: str
    job: Literal["cook", "pilot", "other"]
    age: int | None = None
    dogs: list[Dog] = Field(default_factory=list, description="The dogs that the person owns")


class People(BaseModel):
    people: list[Person]


class Product(BaseModel):
    value: int


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Review(BaseModel):
    about: str
    mood: Mood


def in_mode(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OPENAI, mode=mode, model=MODEL)


def known(people: list[Person]) -> None:
    """Check that these are the people of the sentence."""
    assert [(person.name, person.job, person.age) for person in people] == [
        ("Anna", "cook", 31),
        ("Ben", "pilot", 27),
    ]
    assert [dog.name for dog in people[0].dogs] == ["Rex", "Bo"]


def extracts(client: instructor.Instructor) -> None:
    known(client.create(response_model=People, messages=PEOPLE).people)


def streams(client: instructor.Instructor) -> None:
    """Partial objects are parsed during the stream."""
    *_, last = client.create_partial(response_model=People, messages=PEOPLE)
    known(People.model_validate(last.model_dump()).people)
    known(list(client.create_iterable(response_model=Person, messages=PEOPLE)))


@case(needs="json")
def by_default() -> None:
    extracts(instructor.from_openai(OPENAI, model=MODEL))


@case(needs="json")
def by_default_streamed() -> None:
    streams(DEFAULT)


@case(needs="json")
def json() -> None:
    extracts(in_mode(instructor.Mode.JSON))


@case(needs="json")
def json_schema() -> None:
    extracts(in_mode(instructor.Mode.JSON_SCHEMA))


@case(needs="json")
def json_schema_streamed() -> None:
    streams(in_mode(instructor.Mode.JSON_SCHEMA))


@case()
def markdown() -> None:
    """The request for JSON is in the prompt only, so the gateway does not enforce a schema."""
    client = in_mode(instructor.Mode.MD_JSON)
    if "json" not in WITHOUT:
        extracts(client)
        return
    failed = False
    try:
        client.create(response_model=People, messages=PEOPLE, max_retries=1)
    except InstructorError:
        failed = True
    assert failed


@case(needs="json")
def responses() -> None:
    extracts(in_mode(instructor.Mode.RESPONSES_TOOLS))


@case(needs="json")
def parallel_tools() -> None:
    class Weather(BaseModel):
        """Ask for the weather in a city."""

        city: str

    class Search(BaseModel):
        """Search the web."""

        query: str

    asked: Any = [
        {"role": "system", "content": "You must always use tools"},
        {
            "role": "user",
            "content": "What is the weather in Toronto and in Dallas, and who won the Tour de France of 2020?",
        },
    ]
    client = in_mode(instructor.Mode.PARALLEL_TOOLS)
    calls = list(client.create(response_model=Iterable[Weather | Search], messages=asked))
    assert calls
    assert all(isinstance(call, Weather | Search) for call in calls)
    assert "Toronto" in [call.city for call in calls if isinstance(call, Weather)]


@case(needs="json")
def plain_types() -> None:
    assert isinstance(DEFAULT.create(response_model=int, messages=PRODUCT), int)
    known(DEFAULT.create(response_model=list[Person], messages=PEOPLE))
    assert DEFAULT.create(response_model=Mood, messages=REVIEW) is Mood.GOOD


@case(needs="json")
def with_completion() -> None:
    review, completion = DEFAULT.create_with_completion(response_model=Review, messages=REVIEW)
    assert review.mood is Mood.GOOD
    assert "cheese" in review.about.lower()
    assert completion.choices[0].message.tool_calls
    assert completion.usage.completion_tokens > 0


def validates_again(client: instructor.Instructor) -> None:
    """Validation rejects the first answer; the client sends it back with the error and accepts the second one."""
    values: list[int] = []

    class Checked(BaseModel):
        value: int

        @field_validator("value")
        @classmethod
        def checked(cls, value: int) -> int:
            values.append(value)
            if len(values) == 1:
                raise ValueError("Work it out once more.")
            return value

    product = client.create(response_model=Checked, messages=PRODUCT, max_retries=2)
    assert isinstance(product, Checked)
    assert len(values) == 2


@case(needs="json")
def validation_by_default() -> None:
    validates_again(DEFAULT)


@case(needs="json")
def validation_of_json_schema() -> None:
    validates_again(in_mode(instructor.Mode.JSON_SCHEMA))


@case(needs="json")
async def asynchronous() -> None:
    client = instructor.from_provider(f"openai/{MODEL}", async_client=True, **SERVER)
    assert isinstance(await client.create(response_model=Product, messages=PRODUCT), Product)
    partial = [product async for product in client.create_partial(response_model=Product, messages=PRODUCT)]
    assert isinstance(partial[-1].value, int)
    known([person async for person in client.create_iterable(response_model=Person, messages=PEOPLE)])


@case()
def text() -> None:
    """Without a response model, the client returns the completion."""
    completion = DEFAULT.create(response_model=None, messages=PRODUCT)
    assert completion.choices[0].message.content


@case(needs="images")
def image() -> None:
    asked: Any = [{"role": "user", "content": [DIGITS, instructor.Image.from_base64(picture_url())]}]
    completion = DEFAULT.create(response_model=None, messages=asked)
    assert completion.choices[0].message.content.strip().isdecimal()


run()
