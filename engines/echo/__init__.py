"""The reference engine: answers with what it was given, and delays, fails, crashes or leaks on request."""
