"""An arm as a folder that Hugging Face's transformers loads."""
