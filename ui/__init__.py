"""The desktop: a client of the daemon over HTTP and server-sent events."""
