"""The captured model: torch.export capture with origins, operator kinds, edits, and a file form without pickles."""
