"""The session tools that a model calls, with the rule of what a caller may see."""

from sessions_db.tools.results import SENT_BY
from sessions_db.tools.session_tools import SessionTools
from sessions_db.tools.visibility import Visibility

__all__ = ["SENT_BY", "SessionTools", "Visibility"]
