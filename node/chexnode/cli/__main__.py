"""``python -m chexnode.cli``: the command ``chexnode``."""

from chexnode.cli.commands import main

if __name__ == "__main__":
    main()
