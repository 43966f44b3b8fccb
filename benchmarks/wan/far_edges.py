"""Leads the runtime's edges through a proxy, by the addresses that its workers meet at.

Owns the rewriting of those addresses; benchmarks.wan.proxied_store does the same for gloo's.
"""

from benchmarks.wan.proxy import ask_way
from runtime.rendezvous import Rendezvous


def lead_through(control: str) -> None:
    """From now on this process dials its neighbours through the proxy at `control`."""
    await_edge = Rendezvous.await_edge

    def await_way(self: Rendezvous, edge: int) -> str:
        scheme, host, port = await_edge(self, edge).replace("//", "").split(":")
        assert scheme == "tcp", f"edge {edge} is {scheme}; a proxy carries --link zmq-tcp alone"
        begin_host, begin_port = ask_way(control, host, int(port))
        return f"tcp://{begin_host}:{begin_port}"

    Rendezvous.await_edge = await_way  # type: ignore[method-assign]
