"""A wide-area link on loopback: a TCP proxy with delay and rate, for kernels without netem.

    with WanProxy(rtt_s=0.05, bits_per_s=1e9) as proxy:
        host, port = ask_way(proxy.control, "127.0.0.1", 4567)  # from any process

Owns the proxy, which runs on a thread of its own, and how processes ask it for a way to an address.
Each connection has the whole rate in each direction, as if every edge had a line to itself. Knows
nothing of what passes.
"""

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

LOOPBACK = "127.0.0.1"
PORTS = range(0x8000, 0x10000, 0x100)  # of ways: low byte 0, see benchmarks.wan.proxied_store
CHUNK_BYTES = 1 << 16
BURST_S = 0.002  # what timers are late may be caught up with
SPARE_BYTES = 1 << 20  # beside what is under way: the buffers of a receiver
CONTROL_TIMEOUT_S = 10.0


class Pacer:
    """A token bucket: when a chunk has left the sender, at a rate and with a small burst."""

    def __init__(self, bits_per_s: float) -> None:
        self._bytes_per_s = bits_per_s / 8
        self._free_s = float("-inf")

    def leave_s(self, size_bytes: int, now_s: float) -> float:
        """Return when the last of `size_bytes`, handed over now, is out; may be just past."""
        self._free_s = max(self._free_s, now_s - BURST_S) + size_bytes / self._bytes_per_s
        return self._free_s


class WanProxy:
    """Listens at the address asked for, and carries bytes with half of `rtt_s` each way."""

    def __init__(self, *, rtt_s: float, bits_per_s: float) -> None:
        """Raises ValueError for a delay below 0 or a rate that is not above 0."""
        if rtt_s < 0 or bits_per_s <= 0:
            raise ValueError(
                f"a round trip of {rtt_s} s at {bits_per_s} bit/s is no link; give at least 0 s"
                " and a rate above 0"
            )
        self.control = ""
        """The address at which it is asked for ways, as host:port; known once it runs."""
        self._delay_s = rtt_s / 2
        self._bits_per_s = bits_per_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wan", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._ways: dict[tuple[str, int], int] = {}  # what is led to -> where the way begins
        self._carrying: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.control = self._call(self._open()).result(CONTROL_TIMEOUT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Cut all connections; nothing listens any more when this returns."""
        self._call(self._close()).result(CONTROL_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_TIMEOUT_S)
        self._loop.close()

    @property
    def num_ways(self) -> int:
        """How many addresses it leads to."""
        return len(self._ways)

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _open(self) -> str:
        server = await asyncio.start_server(self._answer, LOOPBACK, 0)
        self._servers.append(server)
        return f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say where the way that a process asks for begins; open it if it is new."""
        try:
            host, port = (await reader.readline()).decode().split()
            target = host, int(port)
            if target not in self._ways:
                self._ways[target] = await self._open_way(*target)
            writer.write(f"{self._ways[target]}\n".encode())
            await writer.drain()
        finally:  # who asked hears at once if there is no way
            writer.close()

    async def _open_way(self, host: str, port: int) -> int:
        def accept(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._join(near_in, near_out, host, port))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

        for begin in PORTS:
            try:
                server = await asyncio.start_server(accept, LOOPBACK, begin, limit=CHUNK_BYTES)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._servers.append(server)
            return begin
        raise OSError(errno.EADDRINUSE, f"none of the {len(PORTS)} ports of ways is free")

    async def _join(
        self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        """Carry one connection both ways until both ends are through, or one is lost."""
        writers = [near_out]
        try:
            far_in, far_out = await asyncio.open_connection(host, port, limit=CHUNK_BYTES)
            writers.append(far_out)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(near_in, far_out))
                both.create_task(self._carry(far_in, near_out))
        except* OSError:
            pass  # a lost end is passed on: both connections are closed
        finally:
            for writer in writers:
                writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction: out at the rate, in after the delay, in order."""
        flight = _Flight(int(self._bits_per_s / 8 * self._delay_s) + SPARE_BYTES)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flight.land(writer))
            pacer = Pacer(self._bits_per_s)
            while chunk := await reader.read(CHUNK_BYTES):
                came_s = time.monotonic()
                left_s = max(came_s, pacer.leave_s(len(chunk), came_s))  # a burst is not early
                await _sleep_until(left_s)
                await flight.take(chunk, left_s + self._delay_s)
            await flight.take(b"", time.monotonic() + self._delay_s)


class _Flight:
    """Chunks under way, each with the time at which it is due; at most `limit_bytes` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._landed = asyncio.Event()

    async def take(self, chunk: bytes, due_s: float) -> None:
        """Take a chunk on its way, when there is room for it."""
        while self._size_bytes > self._limit_bytes:
            self._landed.clear()
            await self._landed.wait()
        self._size_bytes += len(chunk)
        self._chunks.put_nowait((due_s, chunk))

    async def land(self, writer: asyncio.StreamWriter) -> None:
        """Hand over what is due, until an empty chunk says that there is no more."""
        while True:
            due_s, chunk = await self._chunks.get()
            await _sleep_until(due_s)
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
            self._size_bytes -= len(chunk)
            self._landed.set()


async def _sleep_until(due_s: float) -> None:
    wait_s = due_s - time.monotonic()
    if wait_s > 0:
        await asyncio.sleep(wait_s)


def ask_way(control: str, host: str, port: int) -> tuple[str, int]:
    """Have the proxy at `control` lead to `host`:`port`; return where to dial instead.

    Raises OSError if the proxy is not there or opens no way.
    """
    proxy_host, proxy_port = control.split(":")
    with socket.create_connection((proxy_host, int(proxy_port)), CONTROL_TIMEOUT_S) as connection:
        connection.sendall(f"{host} {port}\n".encode())
        with connection.makefile() as answer:
            begin = answer.readline().strip()
    if not begin:
        raise ConnectionError(f"the proxy opened no way to {host}:{port}; its error is on stderr")
    return LOOPBACK, int(begin)
