"""The process that holds one block and drives it: driver, compute thread, inbox, outbox."""
