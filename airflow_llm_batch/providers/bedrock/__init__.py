"""Amazon Bedrock: model invocation jobs, InvokeModel and Converse; and its OpenAI-compatible batches."""
