"""State of the window. Only `apply` (an event) and `fill` (a fetched answer) write it; views read and listen."""
