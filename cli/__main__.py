"""python -m granted.cli, as under `accelerate launch -m granted.cli train aggregator ...`."""

from granted.cli import main


if __name__ == "__main__":
    main()
