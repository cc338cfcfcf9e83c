# /// script
# dependencies = ["instructor==1.17.0"]
# ///
"""instructor: pydantic models in each of its modes, streamed, validated again, and asynchronous."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

import instructor
import openai
from cases import COUNT, DESCRIBE, DIGITS, KEY, MODEL, URL, WITHOUT, case, picture_url, run
from instructor.core.exceptions import InstructorError
from pydantic import BaseModel, Field, field_validator

SERVER: dict[str, Any] = {"base_url": URL, "api_key": KEY, "max_retries": 0, "timeout": 300}
OPENAI = openai.OpenAI(**SERVER)
DEFAULT = instructor.from_provider(f"openai/{MODEL}", **SERVER)
COW: Any = [{"role": "user", "content": "Describe a cow, and the farm in Bern where it lives."}]
PEOPLE: Any = [{"role": "user", "content": "Extract the people: Anna is 31 years old. Ben is 27 years old."}]
PRODUCT: Any = [{"role": "user", "content": COUNT}]


class Diet(StrEnum):
    PLANTS = "plants"
    MEAT = "meat"
    BOTH = "both"


class Farm(BaseModel):
    city: str
    size: Literal["small", "large"] | None = None


class Animal(BaseModel):
    """An animal and where it lives."""

    name: str = Field(description="What it is called")
    diet: Diet
    legs: int | None = None
    farm: Farm | None = None
    sounds: list[str] = Field(default_factory=list)


class Person(BaseModel):
    name: str
    age: int


class People(BaseModel):
    people: list[Person]


class Product(BaseModel):
    value: int


def in_mode(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OPENAI, mode=mode)


def extracts(client: instructor.Instructor) -> None:
    """The client reads nested models, lists and enums."""
    animal = client.create(model=MODEL, response_model=Animal, messages=COW)
    assert isinstance(animal, Animal)
    assert isinstance(animal.diet, Diet)
    found = client.create(model=MODEL, response_model=People, messages=PEOPLE)
    assert {(person.name, person.age) for person in found.people} == {("Anna", 31), ("Ben", 27)}


def streams(client: instructor.Instructor) -> None:
    """The client reads objects while they are written."""
    *before, last = client.create_partial(model=MODEL, response_model=Animal, messages=COW)
    assert before
    assert isinstance(Animal.model_validate(last.model_dump()), Animal)
    people = list(client.create_iterable(model=MODEL, response_model=Person, messages=PEOPLE))
    assert {(person.name, person.age) for person in people} == {("Anna", 31), ("Ben", 27)}


@case(needs="json")
def by_default() -> None:
    extracts(DEFAULT)


@case(needs="json")
def by_default_streamed() -> None:
    streams(DEFAULT)


@case(needs="json")
def tools() -> None:
    extracts(in_mode(instructor.Mode.TOOLS))


@case(needs="json")
def json() -> None:
    extracts(in_mode(instructor.Mode.JSON))


@case(needs="json")
def json_streamed() -> None:
    streams(in_mode(instructor.Mode.JSON))


@case(needs="json")
def json_schema() -> None:
    extracts(in_mode(instructor.Mode.JSON_SCHEMA))


@case(needs="json")
def json_schema_streamed() -> None:
    streams(in_mode(instructor.Mode.JSON_SCHEMA))


@case()
def markdown() -> None:
    """The request asks for JSON in words only, so the gateway answers, with whatever the models write."""
    client = in_mode(instructor.Mode.MD_JSON)
    if "json" not in WITHOUT:
        extracts(client)
        streams(client)
        return
    failed = False
    try:
        client.create(model=MODEL, response_model=Animal, messages=COW, max_retries=1)
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
            "content": "What is the weather in Toronto and in Dallas, and who won the last Tour de France?",
        },
    ]
    client = in_mode(instructor.Mode.PARALLEL_TOOLS)
    calls = list(client.create(model=MODEL, response_model=Iterable[Weather | Search], messages=asked))
    assert calls
    assert all(isinstance(call, Weather | Search) for call in calls)
    assert "Toronto" in [call.city for call in calls if isinstance(call, Weather)]


@case(needs="json")
def plain_types() -> None:
    assert isinstance(DEFAULT.create(response_model=int, messages=PRODUCT), int)
    people = DEFAULT.create(response_model=list[Person], messages=PEOPLE)
    assert {person.name for person in people} == {"Anna", "Ben"}
    sentiment: Any = [{"role": "user", "content": "Classify: I love this cheese."}]
    assert DEFAULT.create(response_model=Literal["good", "bad"], messages=sentiment) == "good"


@case(needs="json")
def with_completion() -> None:
    product, completion = DEFAULT.create_with_completion(response_model=Product, messages=PRODUCT)
    assert isinstance(product, Product)
    assert completion.choices[0].message.tool_calls
    assert completion.usage.completion_tokens > 0


def validates_again(client: instructor.Instructor) -> None:
    """The first answer is refused, so the client sends it back with the error, and takes the second one."""
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

    product = client.create(model=MODEL, response_model=Checked, messages=PRODUCT, max_retries=2)
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
    people = [person async for person in client.create_iterable(response_model=Person, messages=PEOPLE)]
    assert {person.name for person in people} == {"Anna", "Ben"}


@case()
def text() -> None:
    """Without a model, the client hands on the completion."""
    asked: Any = [{"role": "user", "content": DESCRIBE}]
    completion = DEFAULT.create(response_model=None, messages=asked, max_tokens=60)
    assert completion.choices[0].message.content


@case(needs="images")
def image() -> None:
    asked: Any = [{"role": "user", "content": [DIGITS, instructor.Image.from_base64(picture_url())]}]
    completion = DEFAULT.create(response_model=None, messages=asked)
    assert completion.choices[0].message.content.strip().isdecimal()


run()
