"""`python -m actorjobs`."""

from actorjobs.cli import main

if __name__ == "__main__":
    main()
