"""Models in this process, run by Hugging Face Transformers. The only room that imports torch."""
