"""`pilothouse-worker serve | probe`: what the daemon starts in the interpreter of a runtime."""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="pilothouse-worker", description="Holds one model for the Pilothouse daemon.")
    parser.add_argument("command", choices=["serve", "probe"])
    arguments = parser.parse_args()
    if arguments.command == "serve":
        from engines import worker

        return worker.main()
    from engines import probe

    return probe.main()


if __name__ == "__main__":
    sys.exit(main())
