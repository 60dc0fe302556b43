"""One self-contained page per run: equations typeset, figures inline, nothing fetched from anywhere."""

from __future__ import annotations

from sciml_discover.report.html import render_report
from sciml_discover.report.picture import save_picture

__all__ = ["render_report", "save_picture"]
