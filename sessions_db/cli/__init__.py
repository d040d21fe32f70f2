"""The command `sessions-db`. Each line registers the commands of a module."""

from sessions_db.cli import audit as audit
from sessions_db.cli import changing as changing
from sessions_db.cli import completion as completion
from sessions_db.cli import demo as demo
from sessions_db.cli import doctor as doctor
from sessions_db.cli import listing as listing
from sessions_db.cli import mcp as mcp
from sessions_db.cli import overview as overview
from sessions_db.cli import reading as reading
from sessions_db.cli import retention as retention
from sessions_db.cli import schemas as schemas
from sessions_db.cli import searching as searching
from sessions_db.cli import transfer as transfer
from sessions_db.cli import upgrading as upgrading
from sessions_db.cli import web as web
from sessions_db.cli.group import cli as cli
