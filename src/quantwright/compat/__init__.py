"""Drop-in faces of other tools: thin, they translate calls and compute nothing."""
