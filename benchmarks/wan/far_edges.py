"""Leads the runtime's edges through a proxy, by what they dial.

Owns the way to each address; benchmarks.wan.proxied_store does the same for gloo's.
"""

from functools import cache

from benchmarks.wan.proxy import ask_way
from runtime.links import channel


def lead_through(control: str) -> None:
    """From now on this process dials its neighbours through the proxy at `control`."""

    @cache
    def way_to(address: str) -> str:
        scheme, host, port = address.replace("//", "").split(":")
        assert scheme == "tcp", f"an edge is {scheme}; a proxy carries --link zmq-tcp alone"
        begin_host, begin_port = ask_way(control, host, int(port))
        return f"tcp://{begin_host}:{begin_port}"

    channel.way_to = way_to
