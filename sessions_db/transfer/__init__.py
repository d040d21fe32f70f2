"""Sessions as JSON Lines: exported from a database, and imported into this or another one."""

from sessions_db.transfer.exporting import Export, export_lines
from sessions_db.transfer.importing import Line, Outcome, import_lines
from sessions_db.transfer.proving import verify_export

__all__ = ["Export", "Line", "Outcome", "export_lines", "import_lines", "verify_export"]
