"""``python -m buttress`` and the console script: exit codes are 0 pass, 1 fail, 2 unknown, 64 usage, 70 broken, 130 interrupted."""

from __future__ import annotations

import signal
import sys
import traceback

USAGE, BROKEN = 64, 70


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Click's own codes (2 for usage, 1 for abort) and Python's 1 for a traceback are remapped: 1 is always a finding."""
    import click

    from buttress.cli import cli
    from buttress.kernel.errors import ButtressError

    signal.signal(signal.SIGTERM, _interrupt)  # so that what was started is ended
    code = BROKEN
    try:
        result = cli.main(args=argv, prog_name="buttress", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        code = USAGE
    except click.Abort:
        sys.stderr.write("aborted\n")
        code = 130
    except ButtressError as error:
        sys.stderr.write(f"buttress: {error.message}\n" + (f"  {error.fix}\n" if error.fix else ""))
        code = USAGE if error.code in ("usage", "invalid_input", "unknown_system", "missing_extra", "unreadable_result") else BROKEN
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
    sys.exit(code)


if __name__ == "__main__":
    main()
