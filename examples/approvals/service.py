"""The approvals: a question is stored, and a person answers it days later.

Run by uvicorn as `approvals.service:app`, with its database in APPROVALS_DATABASE_URL.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from approvals.contract import Approved, AskForApproval, WithdrawQuestion

engine = create_async_engine(os.environ["APPROVALS_DATABASE_URL"])
sessions = async_sessionmaker(engine)
service = outbox.Service("approvals", sessions)


class Base(DeclarativeBase):
    pass


class Question(Base):
    """A question to a person. Its id is that of the command that waits for the answer."""

    __tablename__ = "questions"
    id: Mapped[str] = mapped_column(primary_key=True)
    purchase: Mapped[str]
    euros: Mapped[int]
    status: Mapped[str] = mapped_column(default="open")


@service.on(AskForApproval)
async def ask(
    session: AsyncSession, command: AskForApproval, context: outbox.Context
) -> outbox.Pending:
    session.add(Question(id=context.id, purchase=command.purchase, euros=command.euros))
    return outbox.Pending(note="a manager approves it", expect=timedelta(days=2))


@service.on(WithdrawQuestion)
async def withdraw(session: AsyncSession, _: WithdrawQuestion, context: outbox.Context) -> None:
    for id in context.undoes:
        question = await session.get_one(Question, id)
        question.status = "withdrawn"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(title="approvals", lifespan=lifespan)
service.attach(app)


class Decision(BaseModel):
    by: str
    approved: bool


@app.get("/questions")
async def get_questions() -> list[dict[str, str]]:
    async with sessions() as session:
        found = await session.scalars(select(Question).where(Question.status == "open"))
        return [{"id": it.id, "purchase": it.purchase} for it in found]


@app.post("/questions/{id}", status_code=204)
async def decide(id: str, decision: Decision) -> None:
    answer: Approved | outbox.Refused = Approved(decision.by)
    if not decision.approved:
        answer = outbox.Refused("not-approved", f"{decision.by} does not approve it")
    async with sessions.begin() as session:
        try:
            await service.complete(session, id, answer)
        except outbox.NotPendingYet:
            raise HTTPException(404, "there is no such question") from None
        except outbox.TooLate:
            raise HTTPException(409, "the purchase was cancelled meanwhile") from None
        except outbox.AlreadyAnswered:
            raise HTTPException(409, "it was decided before") from None
        question = await session.get_one(Question, id)
        question.status = "approved" if decision.approved else "refused"
