"""What a worker does next, as pure state machines: no clock, thread, socket or tensor."""
