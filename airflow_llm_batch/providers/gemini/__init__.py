"""Gemini's protocol and its words, which Vertex AI speaks too."""
