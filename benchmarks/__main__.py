"""Runs the speed benchmarks: `python -m benchmarks --help`."""

from benchmarks.speed.command import main

if __name__ == "__main__":
    main()
