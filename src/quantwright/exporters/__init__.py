"""Exporters: write files other programs run.

To add one: write ``exporters/<name>.py`` with ``plugin = export`` where
``export(prepared: PreparedModel, path: Path, **options) -> ExportRecord`` writes to a temporary name, checks, runs what
it wrote, and renames it only then.
"""
