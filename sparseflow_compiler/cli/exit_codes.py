"""What the exit status of a command means."""

from __future__ import annotations

SUCCESS, FAILED, MISUSED, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES: dict[int, str] = {
    SUCCESS: "done",
    FAILED: "an error, with a message on stderr, or a failed check",
    MISUSED: "wrong usage",
    UNFINISHED: "a deadline left something undone",
    INTERRUPTED: "interrupted",
}
"""Each exit status with its meaning."""

EPILOG = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."
"""The line below the help."""
