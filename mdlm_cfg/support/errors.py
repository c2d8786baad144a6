"""What a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something a user can mend: one sentence that names the value, what is allowed and what to do.

    The commands print it and exit with code 2. Anything else that is raised is a fault of this package, and keeps its
    traceback.
    """
