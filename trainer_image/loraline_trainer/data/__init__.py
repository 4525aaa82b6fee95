"""From files to rows of tokens with a loss mask: read, format, render, check, preview."""
