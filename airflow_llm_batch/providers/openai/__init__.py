"""OpenAI's protocol, and that of every server that speaks it."""
