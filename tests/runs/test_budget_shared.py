import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from llmprog.errors import BudgetExceededError, OptionError, StoreError
from llmprog.runs.amounts import Amount
from llmprog.runs.budget import Budget
from llmprog.runs.shared_ledger import open_ledger, raise_limits, read_ledger
from llmprog.types import Usage

TEN_CALLS = Budget(calls=10)
EACH = Usage(calls=1, prompt_tokens=60, completion_tokens=40, usd=0.04)
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "budgets.py"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "team" / "budget.ledger"


@pytest.fixture(params=["file", "server"])
def where(request):
    """The place of a ledger; what it promises holds wherever it is."""
    return request.getfixturevalue("file") if request.param == "file" else request.getfixturevalue("postgres_url")


def opened(where, budget=TEN_CALLS, **options):
    return open_ledger(where, budget, durable=False, **options)


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


HOLD = """
    import asyncio, sys
    from llmprog.runs.budget import Budget
    from llmprog.runs.shared_ledger import open_ledger
    from llmprog.types import Usage

    async def main():
        each = Usage(1, 60, 40, 0.04)
        ledger = await open_ledger(sys.argv[1], Budget(), lease_s=float(sys.argv[2]), durable=False)
        granted = 0
        while granted < int(sys.argv[3]):
            granted += await ledger.reserve(each, int(sys.argv[3]) - granted)
        print(flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await ledger.settle(Usage(granted, 60 * granted, 40 * granted, 0.04 * granted), Usage(1, 30, 20, 0.01))
        await ledger.aclose()

    asyncio.run(main())
"""


def holder(where, count, lease_s=15.0):
    """A process that has set aside ``count`` calls, until its input ends."""
    process = python(HOLD, where, lease_s, count)
    assert process.stdout.readline() == b"\n"
    return process


def end(process):
    process.communicate(timeout=100)
    assert process.returncode == 0


async def test_two_ledgers_at_one_place_count_together(where):
    first = await opened(where, Budget(calls=3, usd=1))
    second = await opened(where, Budget())
    assert second.budget == Budget(calls=3, usd=1)
    assert await first.reserve(EACH, 2) == 2
    assert await second.reserve(EACH, 2) == 1
    assert second.reserved == Amount(3, 300, 120_000_000)
    await first.settle(replace(EACH, calls=2, usd=0.08), replace(EACH, calls=2, usd=0.05))
    await second.settle(EACH, EACH)
    for ledger in (first, second):
        with pytest.raises(BudgetExceededError, match="calls: 3 of 3 spent, and the next call may cost up to 1; raise"):
            await ledger.reserve(EACH, 1)
    assert second.settled == Amount(3, 200, 90_000_000)
    assert second.charged == Amount(1, 100, 40_000_000)
    report = second.report()
    assert report["exhausted"].startswith("calls: 3 of 3 spent")
    json.dumps(report)
    await first.aclose()
    await second.aclose()
    state = read_ledger(where)
    assert (state.settled, state.reserved, state.holders) == (Amount(3, 200, 90_000_000), Amount(), ())


async def test_a_call_waits_for_another_process(where):
    ledger = await opened(where, Budget(tokens=250))
    with holder(where, 2) as process:
        waiting = asyncio.create_task(ledger.reserve(EACH, 1))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        end(process)
    assert await waiting == 1
    await ledger.settle(EACH, EACH)
    assert ledger.settled.tokens == 150
    await ledger.aclose()


@pytest.mark.fault("budget", "killed while holding a reservation", "it stays charged and is named; nobody waits for it")
async def test_what_a_killed_process_has_set_aside_stays_charged(where):
    ledger = await opened(where, Budget(calls=4), lease_s=0.4)
    with holder(where, 3) as process:
        assert await ledger.reserve(EACH, 3) == 1
        waiting = asyncio.create_task(ledger.reserve(EACH, 1))
        process.kill()
    await ledger.settle(EACH, Usage())
    assert await waiting == 1  # there is room for one without that of the other
    again = asyncio.create_task(ledger.reserve(EACH, 1))
    await ledger.settle(EACH, EACH)
    with pytest.raises(BudgetExceededError) as caught:
        await again
    assert "calls: 1 of 4 spent, 3 set aside by processes that ended in the middle of a call" in str(caught.value)
    assert f"({process.pid} on " in str(caught.value)
    await ledger.aclose()
    state = read_ledger(where)
    assert (state.settled.calls, state.reserved.calls) == (1, 3)
    assert [found.pid for found in state.holders] == [process.pid]


@pytest.mark.fault(
    "process", "SIGSTOP of a process that holds a reservation", "others give up, and nothing is spent twice"
)
async def test_a_stopped_process_settles_when_it_goes_on(where):
    ledger = await opened(where, Budget(calls=2), lease_s=0.3)
    with holder(where, 2, lease_s=0.3) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(BudgetExceededError, match="2 set aside by processes that ended"):
            await ledger.reserve(EACH, 1)
        process.send_signal(signal.SIGCONT)
        end(process)
    assert await ledger.reserve(EACH, 2) == 1  # of its two calls, one cost something
    await ledger.aclose()


@pytest.mark.parametrize("twice", [False, True])
async def test_a_cancelled_wait_leaves_nothing_set_aside(where, twice):
    ledger = await opened(where, Budget(calls=1))
    await ledger.reserve(EACH, 1)
    tasks = [asyncio.create_task(ledger.reserve(EACH, 1)) for _ in range(3)]
    await asyncio.sleep(0.02)
    tasks[0].cancel()
    if twice:
        await asyncio.sleep(0)
        tasks[0].cancel()
    await ledger.settle(EACH, Usage())
    tasks[1].cancel()  # perhaps it is granted already
    await asyncio.sleep(0.02)
    assert await tasks[2] == 1
    await ledger.settle(EACH, Usage())
    await ledger.aclose()
    assert read_ledger(where).reserved == Amount()


async def test_a_settlement_is_made_although_its_task_is_cancelled(where):
    ledger = await opened(where)
    await ledger.reserve(EACH, 1)
    task = asyncio.create_task(ledger.settle(EACH, EACH))
    await asyncio.sleep(0)
    task.cancel()
    await ledger.aclose()
    assert read_ledger(where).settled.calls == 1


async def test_a_cost_above_what_was_set_aside_is_charged_and_told_apart(where):
    ledger = await opened(where, Budget(usd=0.1))
    await ledger.reserve(EACH, 1)
    await ledger.settle(EACH, replace(EACH, usd=0.3))
    with pytest.raises(BudgetExceededError, match=r"usd: 0\.3 of 0\.1 spent"):
        await ledger.reserve(EACH, 1)
    await ledger.aclose()
    state = read_ledger(where)
    assert (state.settled.usd, state.overrun.usd) == (0.3, 0.26)


async def test_an_unknown_price_stays_unknown(where):
    unknown = replace(EACH, usd=None)
    ledger = await opened(where, Budget(calls=9))
    await ledger.reserve(unknown, 1)
    await ledger.settle(unknown, unknown)
    await ledger.reserve(EACH, 1)
    await ledger.settle(EACH, EACH)
    assert ledger.settled == Amount(2, 200, None)
    await ledger.aclose()


async def test_an_unknown_price_is_refused_under_a_limit_in_dollars(where):
    unknown = replace(EACH, usd=None)
    priced = await opened(where, Budget(usd=1))
    with pytest.raises(OptionError, match="what a call may cost is unknown"):
        await priced.reserve(unknown, 1)
    await priced.aclose()


async def test_seconds_and_thoughts_are_each_process_s_own(where):
    first = await opened(where, Budget(calls=9, seconds=60, thoughts=3))
    second = await opened(where, Budget(thoughts=2), num_thoughts=1)
    assert (first.take_thoughts(5), second.take_thoughts(5)) == (3, 1)
    assert second.deadline is None
    late = await opened(where, Budget(seconds=60), elapsed_s=61)
    with pytest.raises(BudgetExceededError, match=r"seconds: [6-9]\d"):
        await late.reserve(EACH, 1)
    for ledger in (first, second, late):
        await ledger.aclose()


async def test_who_waits_at_the_deadline_is_told(where):
    other = await opened(where, Budget(calls=1))
    await other.reserve(EACH, 1)
    ledger = await opened(where, Budget(calls=1, seconds=0.1))
    with pytest.raises(BudgetExceededError, match="seconds"):
        await ledger.reserve(EACH, 1)
    await ledger.aclose()
    await other.aclose()


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(calls=11), "the budget says calls=11, the ledger has calls=10; leave calls out, or raise it"),
        (Budget(usd=1), "the budget says usd=1, the ledger has no such limit"),
    ],
)
async def test_limits_are_those_the_ledger_was_begun_with(where, budget, said):
    await (await opened(where, Budget(calls=10))).aclose()
    with pytest.raises(OptionError, match=said):
        await opened(where, budget)


async def test_a_ledger_begins_with_a_limit_it_can_count(where):
    with pytest.raises(OptionError, match="there is none yet; name a limit"):
        await opened(where, Budget(seconds=5))
    with pytest.raises(OptionError, match="more than a shared ledger can count"):
        await opened(where, Budget(usd=1e12))


async def test_a_raised_limit_is_seen_by_who_is_at_work(where):
    ledger = await opened(where, Budget(calls=1, usd=5))
    await ledger.reserve(EACH, 1)
    waiting = asyncio.create_task(ledger.reserve(EACH, 2))
    await asyncio.sleep(0.02)
    raise_limits(where, Budget(calls=3))
    assert await waiting == 2
    assert ledger.budget == Budget(calls=3, usd=5)
    with pytest.raises(OptionError, match="calls=2; it has the limit 3, which can only be raised"):
        raise_limits(where, Budget(calls=2))
    with pytest.raises(OptionError, match="tokens=9; it has no limit, which can only be raised"):
        raise_limits(where, Budget(tokens=9))
    await ledger.aclose()


async def test_closing_refuses_who_waits(where):
    ledger = await opened(where, Budget(calls=1))
    await ledger.reserve(EACH, 1)
    waiting = asyncio.create_task(ledger.reserve(EACH, 1))
    await asyncio.sleep(0.02)
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(StoreError, match="closed"):
        await waiting
    with pytest.raises(StoreError, match="it is closed"):
        await ledger.reserve(EACH, 1)
    assert read_ledger(where).reserved.calls == 1


async def test_settling_twice_is_refused(where):
    ledger = await opened(where)
    await ledger.reserve(EACH, 1)
    await ledger.settle(EACH, EACH)
    with pytest.raises(OptionError, match="settle it once"):
        await ledger.settle(EACH, EACH)
    await ledger.aclose()


@pytest.mark.fault("concurrency", "fork after opening a shared budget", "the fork is refused")
async def test_a_fork_is_refused(file):
    ledger = await opened(file)
    child = os.fork()
    if child == 0:
        try:
            ledger.reserve(EACH, 1).send(None)
        except StoreError as error:
            os._exit(0 if "of which this is a fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    await ledger.aclose()


@pytest.mark.fault("process", "a lock on a shared budget held by another process", "it is waited for")
async def test_a_lock_is_waited_for(file):
    ledger = await opened(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    asked = asyncio.create_task(ledger.reserve(EACH, 1))
    await asyncio.sleep(0.3)
    assert not asked.done()
    other.execute("ROLLBACK")
    other.close()
    assert await asked == 1
    await ledger.aclose()


def spoil_with_text(where):
    where.write_text("this is no database " * 500)


def spoil_with_another_application(where):
    where.unlink()
    connection = sqlite3.connect(where)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()


def change(where, statement):
    connection = sqlite3.connect(where)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.fault(
    "hostile", "a shared budget's file that is foreign, newer or changed", "StoreError, and it stays as it is"
)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_with_text, "it is damaged or no ledger"),
        (spoil_with_another_application, "it is an SQLite file of another application"),
        (lambda where: change(where, "PRAGMA user_version = 9"), "it is of version 9"),
        (lambda where: change(where, "PRAGMA journal_mode = WAL"), "write-ahead log, with which several writers"),
        (
            lambda where: change(where, "CREATE TRIGGER t AFTER UPDATE ON llmprog_budget BEGIN SELECT 1; END"),
            "it has a trigger 't'",
        ),
    ],
)
async def test_what_is_no_ledger_is_refused(file, spoil, said):
    await (await opened(file)).aclose()
    spoil(file)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=said):
        await opened(file)
    assert file.read_bytes() == before


async def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="must be writable"):
        await opened(tmp_path / "file" / "ledger")
    with pytest.raises(StoreError, match="there is no such file"):
        read_ledger(tmp_path / "nothing")
    with pytest.raises(StoreError, match="there is no such file"):
        raise_limits(tmp_path / "nothing", Budget(calls=5))


@pytest.mark.fault("process", "a shared budget deleted or replaced while in use", "StoreError; nobody waits for ever")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_deleted_ledger_is_noticed(file, replaced):
    ledger = await opened(file, Budget(calls=1))
    await ledger.reserve(EACH, 1)
    waiting = asyncio.create_task(ledger.reserve(EACH, 1))
    await asyncio.sleep(0.02)
    file.unlink()
    if replaced:
        await (await opened(file, Budget(calls=1))).aclose()
    with pytest.raises(StoreError, match="it was deleted or replaced while it was in use"):
        await waiting
    await ledger.aclose()


@pytest.mark.fault("process", "disk full under a shared budget", "StoreError, the charge stays, and it goes on later")
async def test_a_full_disk_is_an_error_that_passes(file):
    ledger = await opened(file, Budget(calls=10))
    assert await ledger.reserve(EACH, 1) == 1
    code = """
        import asyncio, resource, signal, sys
        from llmprog.errors import StoreError
        from llmprog.runs.budget import Budget
        from llmprog.runs.shared_ledger import open_ledger
        from llmprog.types import Usage

        async def main():
            ledger = await open_ledger(sys.argv[1], Budget(), durable=False)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            try:
                await ledger.reserve(Usage(1), 1)
            except StoreError as error:
                assert sys.argv[1] in str(error), error
            else:
                raise SystemExit(3)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert await ledger.reserve(Usage(1), 1) == 1
            await ledger.settle(Usage(1), Usage(1))
            await ledger.aclose()

        asyncio.run(main())
    """
    end(python(code, file))
    await ledger.settle(EACH, EACH)
    await ledger.aclose()
    assert read_ledger(file).settled.calls == 2


async def test_a_server_holds_many_ledgers_and_begins_its_tables_once(postgres_url):
    names = [postgres_url, f"{postgres_url}#second", f"{postgres_url}#third"]
    ledgers = await asyncio.gather(*(opened(name, Budget(calls=i + 1)) for i, name in enumerate(names)))
    assert [await ledger.reserve(EACH, 9) for ledger in ledgers] == [1, 2, 3]
    assert str(ledgers[1].report()["ledger"]).endswith("#second")
    for ledger in ledgers:
        await ledger.aclose()
    with pytest.raises(StoreError, match=r"#fourth: it is empty"):
        read_ledger(f"{postgres_url}#fourth")


async def test_a_server_s_password_is_in_no_message(postgres_url):
    with pytest.raises(StoreError) as caught:
        await opened(postgres_url.replace("llmprog@", "llmprog:made-up-word@").replace("127.0.0.1:", "127.0.0.1:1"))
    assert "ledger postgresql://127.0.0.1/" in str(caught.value)
    assert "made-up-word" not in str(caught.value)
    with pytest.raises(StoreError, match="it is no URL of PostgreSQL") as caught:
        await opened("postgresql://me:made-up-word@host:port:what/db?nothing=1")
    assert "made-up-word" not in str(caught.value)


@pytest.mark.fault("budget", "the server of a shared budget ends the session", "StoreError once; then it goes on")
async def test_a_session_that_the_server_ended_is_begun_again(postgres_url):
    import psycopg

    ledger = await opened(postgres_url, Budget(calls=3), lease_s=0.3)
    other_process = await opened(postgres_url, Budget(), lease_s=0.3)
    await ledger.reserve(EACH, 1)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s",
            (postgres_url.rpartition("/")[2],),
        )
    with pytest.raises(StoreError, match="see whether the server is in order"):
        await ledger.settle(EACH, EACH)
    assert await ledger.reserve(EACH, 3) == 2
    await ledger.settle(EACH, EACH)
    # The call that could not be settled stays charged, and nobody waits for it.
    await ledger.settle(EACH, EACH)
    with pytest.raises(StoreError):  # the other's session was ended, too
        await other_process.reserve(EACH, 1)
    for still in (ledger, other_process):
        with pytest.raises(BudgetExceededError, match="calls: 2 of 3 spent, 1 set aside by processes that ended"):
            await still.reserve(EACH, 1)
        await still.aclose()
    state = read_ledger(postgres_url)
    assert (state.settled.calls, state.reserved.calls) == (2, 1)


@pytest.mark.fault("budget", "64 tasks × 4 processes at the limit", "0 overspends")
@pytest.mark.parametrize("place", ["file", "server"])
def test_no_schedule_of_64_tasks_in_4_processes_overspends(place, request):
    ledger = [] if place == "file" else ["--ledger", request.getfixturevalue("postgres_url")]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--schedules", "30", "--teams", "1", *ledger],
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
