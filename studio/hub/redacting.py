"""Tokens are kept out of whatever is logged, and out of what an error prints when it ends a process."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from types import TracebackType

from studio.hub.translation import redact


class Redacting(logging.Filter):
    """Takes tokens out of a record: of its words, what was put into them, and its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without any token."""
        try:
            words = record.getMessage()
        except (TypeError, ValueError):
            return True  # it does not fit its own arguments, and logging says so itself
        if (clean := redact(words)) != words:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            written = io.StringIO()
            traceback.print_exception(*record.exc_info, file=written)
            record.exc_text = redact(written.getvalue().rstrip("\n"))
        return True


def keep_tokens_out() -> None:
    """From now on no log of this process, and no error that ends it, shows a token."""
    logging.setLogRecordFactory(_record)
    sys.excepthook = _print


_FILTER = Redacting()
_made = logging.getLogRecordFactory()


def _record(*arguments: object, **named: object) -> logging.LogRecord:
    record: logging.LogRecord = _made(*arguments, **named)
    _FILTER.filter(record)  # here and not at a handler, so that it holds for those of the libraries too
    return record


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
