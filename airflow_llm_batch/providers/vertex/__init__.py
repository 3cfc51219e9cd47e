"""Vertex AI: batch prediction with Gemini and Claude, from Cloud Storage into it."""
