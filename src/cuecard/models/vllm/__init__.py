"""Models that vLLM runs in this process (extra `vllm`), each with its engine in a process of its own."""
