"""The command line: a switchboard from words to rooms, with no logic of its own."""

import io
import os
import sys
from collections.abc import Sequence

from unspool.cli.words import build_parser
from unspool.errors import UnspoolError
from unspool.kernels.isa import instruction_set


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 after one line on standard error."""
    sys.path.append(os.getcwd())  # so that --cell finds a module in the folder where one is
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    options = build_parser().parse_args(arguments)
    try:
        instruction_set()  # refuses a wrong UNSPOOL_ISA before any work
        options.run(options)
        sys.stdout.flush()
    except UnspoolError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _refuse(f"{error.filename or 'files'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(message: str) -> int:
    print("unspool: " + " ".join(message.splitlines()), file=sys.stderr)
    return 2
