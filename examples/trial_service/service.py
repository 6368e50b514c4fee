"""The trial commands on an outbox.Service: entries in a table, and nothing that looks for
duplicates, undos that come first or answers that come later. The inbox does all that.

    sagabox conform --module trial_service.service:service
"""

import os

from sqlalchemy import BigInteger, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from orchestrator.testing.conforming import contract
from orchestrator.testing.conforming.contract import Added

engine = create_async_engine(os.environ["TRIAL_DATABASE_URL"])
service = outbox.Service("conform", engine)


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    number: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(index=True)
    amount: Mapped[int] = mapped_column(BigInteger)  # messages have integers of 64 bits
    command: Mapped[str]


async def add_entry(session: AsyncSession, account: str, amount: int, command: str) -> Added:
    session.add(Entry(account=account, amount=amount, command=command))
    await session.flush()
    return Added(await balance(session, account))


async def balance(session: AsyncSession, account: str) -> int:
    total = select(func.coalesce(func.sum(Entry.amount), 0)).where(Entry.account == account)
    return int(await session.scalar(total) or 0)


async def delete_entries(session: AsyncSession, *commands: str) -> None:
    await session.execute(delete(Entry).where(Entry.command.in_(commands)))


async def has_entry(session: AsyncSession, account: str) -> bool:
    found = select(Entry.number).where(Entry.account == account).limit(1)
    return await session.scalar(found) is not None


@service.on(contract.Add)
async def add(session: AsyncSession, command: contract.Add, context: outbox.Context) -> Added:
    return await add_entry(session, command.account, command.amount, context.id)


@service.on(contract.Remove)
async def remove(session: AsyncSession, _: contract.Remove, context: outbox.Context) -> None:
    await delete_entries(session, *context.undoes)


@service.on(contract.Refuse)
async def refuse(
    session: AsyncSession, command: contract.Refuse, context: outbox.Context
) -> outbox.Refused:
    await add_entry(session, command.account, command.amount, context.id)
    return outbox.Refused("no", "as it was asked to")


@service.on(contract.Fail)
async def fail(session: AsyncSession, command: contract.Fail, context: outbox.Context) -> Added:
    added = await add_entry(session, command.account, command.amount, context.id)
    if not await has_entry(session, command.gate):
        raise RuntimeError("as it was asked to")
    return added


@service.on(contract.Busy)
async def busy(
    session: AsyncSession, command: contract.Busy, context: outbox.Context
) -> Added | outbox.Locked:
    added = await add_entry(session, command.account, command.amount, context.id)
    return added if await has_entry(session, command.gate) else outbox.Locked("the gate")


@service.on(contract.Later)
async def later(
    session: AsyncSession, command: contract.Later, context: outbox.Context
) -> outbox.Pending:
    await add_entry(session, command.account, command.amount, context.id)
    return outbox.Pending(note="until it is completed")


@service.on(contract.Complete)
async def complete(
    session: AsyncSession, command: contract.Complete, _: outbox.Context
) -> outbox.Refused | None:
    is_done = command.outcome == "done"
    answer = Added(await balance(session, command.account))
    try:
        await service.complete(
            session, command.command, answer if is_done else outbox.Refused("no", "as asked")
        )
    except outbox.NotPendingYet as error:
        return outbox.Refused("not-pending", error.problem)
    except outbox.TooLate as error:
        return outbox.Refused("too-late", error.problem)
    except outbox.AlreadyAnswered as error:
        return outbox.Refused("already-answered", error.problem)
    if not is_done:
        await delete_entries(session, command.command)
    return None


@service.on(contract.Read)
async def read(
    session: AsyncSession, command: contract.Read, _: outbox.Context
) -> contract.Entries:
    found = select(Entry.command).where(Entry.account == command.account).order_by(Entry.number)
    commands = list(await session.scalars(found))
    return contract.Entries(await balance(session, command.account), commands)
