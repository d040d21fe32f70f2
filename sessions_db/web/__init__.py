"""The read-only pages for people who audit: `create_app` makes the ASGI application.

Every page reads the views for auditors and nothing else, so that a login which may read only those sees it too; only
searching and verifying read the tables.
"""

from sessions_db.web.app import create_app

__all__ = ["create_app"]
