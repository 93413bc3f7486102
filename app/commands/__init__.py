"""The parts of the command line that are more than one call: each module is one command, or what they share."""
